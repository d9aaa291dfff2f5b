"""What a dishonest CA can do to the record of a user, signed by its true record key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_info import GOOD, REVOKED, sign_user_keys
from keypost.protocol.key_requests import read_key_request, sign_possession
from keypost.protocol.renewal import step_4_upload
from support.histories import USERNAME
from support.realm import device_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair, KeyRequest
    from support.histories import History, Observer

LOST = pb.REVOCATION_REASON_LOST


class Lie:
    """A true answer, about to be changed.

    Args:
        whole: What the CA says, with its whole history.
        history: What happened.
        observer: To whom it is shown; he has looked before.
    """

    def __init__(self, whole: pb.KeyInfo, history: History, observer: Observer) -> None:
        self.whole = whole
        self.history = history
        self.observer = observer
        self.statement = pb.UserKeys.FromString(whole.record.user_keys)
        self.requests = [read_key_request(entry.request) for entry in self.statement.entries]

    @property
    def held(self) -> KeyRecord:
        """What the observer holds."""
        assert self.observer.record is not None
        return self.observer.record

    def signed(self, *, later: bool = True) -> pb.KeyInfo:
        """Return it signed; ``later``: at a revision of its own."""
        self.statement.revision += later
        record = sign_user_keys(self.statement, self.history.ca.realm.record_signer)
        return pb.KeyInfo(record=record, history=self.whole.history)

    def held_entries(self) -> Iterator[tuple[int, Key]]:
        """Yield the entries that the observer holds too: where they stand, and what he believes of them."""
        for position, request in enumerate(self.requests):
            if (key := self.held.find(request.fingerprint)) is not None:
                yield position, key

    def pair_of(self, request: KeyRequest) -> DeviceKeyPair:
        """Return the key pair of a request: the CA, or somebody with it, has stolen it."""
        return next(pair for pair in self.history.pairs if pair.fingerprint == request.fingerprint)

    def new_request(self, parent: KeyRequest, kind: int, revision: int) -> tuple[DeviceKeyPair, pb.KeyRequest]:
        """Return a key of the CA's own, and how it would enter by the word of ``parent``."""
        renews = kind == pb.KEY_REQUEST_KIND_RENEW
        pair = self.history.ca.new_pair(parent.address if renews else Address(USERNAME, device_id(999)))
        request = pb.KeyRequest(
            realm=parent.realm,
            username=USERNAME,
            device_id=pair.address.device_id,
            suite=pair.suite.id,
            public_key_der=pair.public_key_der,
            expire_time=self.statement.this_update + 1,
            kind=pb.KeyRequestKind.ValueType(kind),
            parent_fingerprint=parent.fingerprint,
            epoch=parent.epoch,
            revision=revision,
        )
        return pair, request

    def insert(self, signed: pb.SignedKeyRequest, revision: int) -> None:
        """Put a good entry where its revision belongs; it entered when the one before it did, or now if it is last."""
        position = sum(request.revision < revision for request in self.requests)
        before = self.statement.entries[max(position - 1, 0)].enter_time
        entered = self.statement.this_update if position == len(self.requests) else before
        entry = pb.KeyEntry(request=signed, state=GOOD, state_time=entered, enter_time=entered)
        entries = [*self.statement.entries]
        entries.insert(position, entry)
        del self.statement.entries[:]
        self.statement.entries.extend(entries)

    def vouchers(self) -> list[KeyRequest]:
        """Return the strong keys of the epoch that are good on record."""
        pairs = zip(self.requests, self.statement.entries, strict=True)
        return [
            request
            for request, entry in pairs
            if entry.state == GOOD and request.epoch == self.statement.epoch and request.suite.strength > 1
        ]


def drop_an_entry(lie: Lie) -> pb.KeyInfo | None:
    """An entry of late vanishes."""
    retention = lie.history.ca.realm.constants.retention
    for position, key in lie.held_entries():
        ended = lie.held.this_update if key.is_good else key.state_time
        if ended + retention > lie.statement.this_update and len(lie.requests) > 1:
            del lie.statement.entries[position]
            return lie.signed()
    return None


def drop_an_entry_silently(lie: Lie) -> pb.KeyInfo | None:
    """An entry vanishes without a new revision."""
    if lie.held.revision != lie.statement.revision or len(lie.requests) == 1:
        return None
    position = next((position for position, key in lie.held_entries() if key.is_good), None)
    if position is None:
        return None
    del lie.statement.entries[position]
    return lie.signed(later=False)


def alter_a_possession(lie: Lie) -> pb.KeyInfo | None:
    """A byte of a key's own signature is another."""
    request = lie.statement.entries[-1].request
    request.possession = bytes([request.possession[0] ^ 1]) + request.possession[1:]
    return lie.signed()


def alter_an_endorsement(lie: Lie) -> pb.KeyInfo | None:
    """A key stands there by the word of nobody."""
    for request, entry in zip(lie.requests, lie.statement.entries, strict=True):
        if not request.is_root and request.epoch == lie.statement.epoch:
            entry.request.endorsement = entry.request.endorsement[::-1]
            return lie.signed()
    return None


def reorder(lie: Lie) -> pb.KeyInfo | None:
    """The order in which keys entered is another."""
    if len(lie.requests) == 1:
        return None
    entries = [*lie.statement.entries]
    del lie.statement.entries[:]
    lie.statement.entries.extend(reversed(entries))
    return lie.signed()


def a_state_goes_back(lie: Lie) -> pb.KeyInfo | None:
    """A key that had ended is good again."""
    for position, key in lie.held_entries():
        if not key.is_good:
            entry = lie.statement.entries[position]
            entry.state, entry.state_time, entry.reason = GOOD, entry.enter_time, pb.REVOCATION_REASON_UNSPECIFIED
            return lie.signed()
    return None


def a_key_of_the_history_is_good(lie: Lie) -> pb.KeyInfo | None:
    """A key that ended so long ago that the history alone tells of it stands among the good ones."""
    ended = [
        request
        for request in map(read_key_request, lie.whole.history)
        if request.revision <= lie.held.revision and lie.held.find(request.fingerprint) is None
    ]
    # Rather the last one of a device that has no good key: two of a device are believed of no record.
    good = {request.address for request in lie.vouchers()}
    for request in sorted(ended, key=lambda one: (one.address in good, -one.revision)):
        lie.whole.history.remove(request.signed)
        lie.insert(request.signed, request.revision)
        return lie.signed()
    return None


def an_end_is_put_off(lie: Lie) -> pb.KeyInfo | None:
    """A key ended later than it had."""
    for position, key in lie.held_entries():
        if not key.is_good and key.state_time < lie.statement.this_update:
            lie.statement.entries[position].state_time = key.state_time + 1
            return lie.signed()
    return None


def a_reason_is_another(lie: Lie) -> pb.KeyInfo | None:
    """A key was revoked for another reason than it had been."""
    for position, key in lie.held_entries():
        if key.state == REVOKED:
            entry = lie.statement.entries[position]
            entry.reason = pb.REVOCATION_REASON_RETIRED if entry.reason != pb.REVOCATION_REASON_RETIRED else LOST
            return lie.signed()
    return None


def an_entrance_is_earlier(lie: Lie) -> pb.KeyInfo | None:
    """A key entered before it did: so it would not be void."""
    for position, key in lie.held_entries():
        entry = lie.statement.entries[position]
        entry.enter_time -= 1
        if key.is_good and entry.state == GOOD:
            entry.state_time -= 1
        return lie.signed()
    return None


def two_records_of_one_revision(lie: Lie) -> pb.KeyInfo | None:
    """Another record than the one that the observer has of this revision."""
    if lie.held.revision != lie.statement.revision:
        return None
    for position, key in lie.held_entries():
        if key.is_good:
            entry = lie.statement.entries[position]
            entry.state, entry.reason, entry.state_time = REVOKED, LOST, lie.statement.this_update
            return lie.signed(later=False)
    return None


def roll_back(lie: Lie) -> pb.KeyInfo | None:
    """What the observer was shown before, signed anew."""
    for snapshot in lie.observer.snapshots:
        earlier = pb.UserKeys.FromString(snapshot.record.user_keys)
        if earlier.revision < lie.held.revision:
            earlier.this_update, earlier.next_update = lie.statement.this_update, lie.statement.next_update
            lie.statement, lie.whole = earlier, snapshot
            return lie.signed(later=False)
    return None


def a_ghost_by_nobodys_word(lie: Lie) -> pb.KeyInfo | None:
    """A device that no key of the user vouches for."""
    for parent in lie.vouchers()[:1]:
        pair, request = lie.new_request(parent, pb.KEY_REQUEST_KIND_APPROVE, lie.statement.revision + 1)
        lie.insert(step_4_upload(request, pair, pair), request.revision)
        return lie.signed()
    return None


def a_ghost_by_a_word_for_another(lie: Lie) -> pb.KeyInfo | None:
    """A device with the endorsement of another key request."""
    for child in lie.requests:
        parent = next((one for one in lie.vouchers() if one.fingerprint == child.parent_fingerprint), None)
        if parent is not None:
            pair, request = lie.new_request(parent, pb.KEY_REQUEST_KIND_APPROVE, lie.statement.revision + 1)
            moved = sign_possession(request, pair)
            moved.endorsement = child.signed.endorsement
            lie.insert(moved, request.revision)
            return lie.signed()
    return None


def a_ghost_that_was_always_there(lie: Lie) -> pb.KeyInfo | None:
    """A device, vouched for by a stolen key, that claims a revision at which the observer has seen no key enter."""
    taken = {request.revision for request in (*lie.requests, *lie.held.requests)}
    for parent in lie.vouchers():
        free = [number for number in range(parent.revision + 1, lie.held.revision + 1) if number not in taken]
        if free:
            pair, request = lie.new_request(parent, pb.KEY_REQUEST_KIND_APPROVE, free[0])
            lie.insert(step_4_upload(request, pair, lie.pair_of(parent)), free[0])
            return lie.signed()
    return None


def a_fork(lie: Lie) -> pb.KeyInfo | None:
    """A replaced key, stolen, is renewed once more."""
    replaced = {request.parent_fingerprint for request in lie.requests if request.kind == pb.KEY_REQUEST_KIND_RENEW}
    for parent in lie.requests:
        if parent.fingerprint in replaced and parent.epoch == lie.statement.epoch:
            pair, request = lie.new_request(parent, pb.KEY_REQUEST_KIND_RENEW, lie.statement.revision + 1)
            lie.insert(step_4_upload(request, pair, lie.pair_of(parent)), request.revision)
            return lie.signed()
    return None


def a_second_root(lie: Lie) -> pb.KeyInfo | None:
    """A key that nobody vouches for stands beside the others."""
    template = lie.requests[-1]
    pair, request = lie.new_request(template, pb.KEY_REQUEST_KIND_ENROLL, lie.statement.revision + 1)
    request.parent_fingerprint, request.epoch = b"", lie.statement.epoch
    lie.insert(sign_possession(request, pair), request.revision)
    return lie.signed()


def a_new_epoch(lie: Lie) -> pb.KeyInfo | None:
    """The CA resets the identity by itself."""
    for entry in lie.statement.entries:
        if entry.state != REVOKED:
            entry.state_time = lie.statement.this_update if entry.state == GOOD else entry.state_time
            entry.state, entry.reason = REVOKED, pb.REVOCATION_REASON_RESET
    lie.statement.epoch += 1
    template = lie.requests[-1]
    pair, request = lie.new_request(template, pb.KEY_REQUEST_KIND_RESET, lie.statement.revision + 1)
    request.parent_fingerprint, request.epoch = b"", lie.statement.epoch
    lie.insert(sign_possession(request, pair), request.revision)
    return lie.signed()


LIES: tuple[Callable[[Lie], pb.KeyInfo | None], ...] = (
    drop_an_entry,
    drop_an_entry_silently,
    alter_a_possession,
    alter_an_endorsement,
    reorder,
    a_state_goes_back,
    a_key_of_the_history_is_good,
    an_end_is_put_off,
    a_reason_is_another,
    an_entrance_is_earlier,
    two_records_of_one_revision,
    roll_back,
    a_ghost_by_nobodys_word,
    a_ghost_by_a_word_for_another,
    a_ghost_that_was_always_there,
    a_fork,
    a_second_root,
    a_new_epoch,
)
"""Each returns what is shown instead of the truth, or nothing where there is nothing to lie about."""
