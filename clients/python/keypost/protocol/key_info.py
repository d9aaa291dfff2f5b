"""Key info: the signed record of a user's keys, verified (docs/spec.md, "Key info")."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import USER_KEYS, fingerprint, parse
from keypost.protocol.errors import (
    EndorsementError,
    KeyUnknownError,
    MalformedStatementError,
    RecordExpiredError,
    RecordFromFutureError,
    RecordRefusedError,
)
from keypost.protocol.history import complete_history
from keypost.protocol.key_requests import KeyRequest, read_key_request
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost.protocol.signing import sign_statement, verify_statement
from keypost.protocol.suites import WEAK, Suite
from keypost.protocol.tree import Tree, grow_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from keypost.protocol.identifiers import Address
    from keypost.protocol.realm_trust import Constants, RealmTrust
    from keypost.protocol.signing import Signer

GOOD = pb.KEY_STATE_GOOD
SUPERSEDED = pb.KEY_STATE_SUPERSEDED
REVOKED = pb.KEY_STATE_REVOKED
MOST_ENTRIES = 1_000
STATES = frozenset({GOOD, SUPERSEDED, REVOKED})


@dataclass(frozen=True)
class Key:
    """One key in the record of its user.

    Attributes:
        request: The request by which it entered.
        state: Good, superseded or revoked.
        state_time: Since when (the rules' *T*); for a good key, when it entered.
        enter_time: When it entered.
        reason: Why it was revoked.
    """

    request: KeyRequest
    state: pb.KeyState.ValueType
    state_time: int
    enter_time: int
    reason: pb.RevocationReason.ValueType = pb.REVOCATION_REASON_UNSPECIFIED

    @property
    def address(self) -> Address:
        """The device that holds the private key."""
        return self.request.address

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: 32 bytes."""
        return self.request.fingerprint

    @property
    def suite(self) -> Suite:
        """The suite of the key."""
        return self.request.suite

    @property
    def public_key(self) -> RSAPublicKey:
        """The key itself, checked to be one of its suite."""
        return self.request.public_key

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return self.request.public_key_der

    @property
    def expire_time(self) -> int:
        """When it expires, Unix milliseconds."""
        return self.request.expire_time

    @property
    def is_good(self) -> bool:
        """Whether it is neither superseded nor revoked (it may be expired)."""
        return self.state == GOOD

    @property
    def is_compromised(self) -> bool:
        """Whether its private key may be known to somebody else."""
        return self.state == REVOKED and self.reason == pb.REVOCATION_REASON_COMPROMISED

    def to_entry(self) -> pb.KeyEntry:
        """Return the key as it stands in a record."""
        return pb.KeyEntry(
            request=self.request.signed,
            state=self.state,
            state_time=self.state_time,
            reason=self.reason,
            enter_time=self.enter_time,
        )


@dataclass(frozen=True)
class KeyRecord:
    """A user's verified key info.

    Attributes:
        keys: All keys that the record names, in the order in which they entered.
        history: Verified requests of older keys, oldest first.
        key_info: The record as received, with its whole history.
        reset_time: From when on an announced identity reset may take place, Unix milliseconds; 0: none is announced.
    """

    realm: str
    username: str
    epoch: int
    revision: int
    this_update: int
    next_update: int
    keys: tuple[Key, ...]
    history: tuple[KeyRequest, ...]
    key_info: pb.KeyInfo = field(repr=False, compare=False)
    reset_time: int = 0

    @cached_property
    def serialised(self) -> bytes:
        """``key_info`` serialised: it may be handed on many times."""
        return self.key_info.SerializeToString()

    def find(self, key_fingerprint: bytes) -> Key | None:
        """Return the key of this fingerprint, if the record names it."""
        return next((key for key in self.keys if key.fingerprint == key_fingerprint), None)

    def get(self, key_fingerprint: bytes) -> Key:
        """Return the key of this fingerprint.

        Raises:
            KeyUnknownError: the record does not name it.
        """
        if (key := self.find(key_fingerprint)) is None:
            raise KeyUnknownError(
                f"key {key_fingerprint.hex()[:8]} is not in the record of {self.username}", username=self.username
            )
        return key

    def good_keys(self, now: int) -> tuple[Key, ...]:
        """Return the keys that may be sealed to and may act at ``now``: good, unexpired, not void."""
        return tuple(key for key in self.unended_keys if now < key.expire_time)

    @property
    def unended_keys(self) -> tuple[Key, ...]:
        """The keys that are good and not void, expired or not: a device may renew one that has expired."""
        return tuple(key for key in self.keys if key.is_good and not self.is_void(key))

    def is_void(self, key: Key) -> bool:
        """Whether the key descends from one that was compromised before it vouched."""
        return key.fingerprint in self._void

    def tree(self, minimum: Suite = WEAK) -> Tree:
        """Return the tree of the epoch's keys; raises as :func:`keypost.protocol.tree.grow_tree`."""
        if minimum not in self._trees:
            self._trees[minimum] = grow_tree(self.epoch, self._requests.values(), minimum)
        return self._trees[minimum]

    @cached_property
    def _trees(self) -> dict[Suite, Tree]:
        """The trees that have grown; each takes a verification for every key."""
        return {}

    @cached_property
    def _void(self) -> frozenset[bytes]:
        void: set[bytes] = set()
        compromised = {key.fingerprint: key.state_time for key in self.keys if key.is_compromised}
        for request in sorted(self._requests.values(), key=lambda request: request.revision):
            parent = request.parent_fingerprint
            if parent in void or (parent in compromised and self._entered_by(request) > compromised[parent]):
                void.add(request.fingerprint)
        return frozenset(void)

    def _entered_by(self, request: KeyRequest) -> int:
        """Return the earliest time at which a key is known to have entered: later revisions entered later."""
        later = (key.enter_time for key in self.keys if key.request.revision >= request.revision)
        return min(later, default=self.this_update)

    @cached_property
    def requests(self) -> tuple[KeyRequest, ...]:
        """All key requests that are known, those of the history first."""
        return (*self.history, *(key.request for key in self.keys))

    @cached_property
    def _requests(self) -> Mapping[bytes, KeyRequest]:
        return {request.fingerprint: request for request in self.requests}

    def parent_of(self, request: KeyRequest) -> KeyRequest | None:
        """Return the request of the key that vouches for ``request``, if the record or its history has it."""
        return self._requests.get(request.parent_fingerprint)

    def check_fresh(self, now: int) -> None:
        """Raise unless the record may be relied upon at ``now``.

        Raises:
            RecordExpiredError: its next_update is past.
            RecordFromFutureError: it was made more than five minutes ahead.
        """
        if now >= self.next_update:
            raise RecordExpiredError(f"the record of {self.username} is no longer fresh", username=self.username)
        if self.this_update > now + CLOCK_SKEW:
            raise RecordFromFutureError(
                f"the record of {self.username} is from the future; is this machine's clock right?",
                username=self.username,
            )


def sign_user_keys(statement: pb.UserKeys, signer: Signer) -> pb.SignedUserKeys:
    """Return ``statement`` signed by a record key."""
    serialised = statement.SerializeToString(deterministic=True)
    return pb.SignedUserKeys(
        user_keys=serialised,
        signature=sign_statement(signer, USER_KEYS, serialised),
        record_key_fingerprint=fingerprint(signer.public_key_der),
    )


def read_key_info(
    key_info: pb.KeyInfo, *, trust: RealmTrust, username: str, now: int, previous: KeyRecord | None = None
) -> KeyRecord:
    """Verify key info and return the record, with its whole history.

    Args:
        key_info: As received, from whomever.
        trust: The realm's trust.
        username: The user that was asked for.
        now: Unix milliseconds.
        previous: The newest record of the user that was verified before: what the answer leaves out of its history.

    Raises:
        TrustRefusedError: ``trust`` has expired.
        UnknownRecordKeyError: not signed by a record key that the realm lists now.
        SignatureInvalidError: the signature is wrong.
        RecordRefusedError: it is of another realm or user.
        RecordExpiredError, RecordFromFutureError: it is not fresh.
        MalformedStatementError: it does not parse or contradicts itself.
        PossessionError, EndorsementError, TreeBrokenError, ForkDetectedError: its keys do not prove each other.
    """
    trust.check_current(now)
    signed = key_info.record
    record_key = trust.record_key(signed.record_key_fingerprint, now)
    verify_statement(record_key.public_key_der, USER_KEYS, signed.user_keys, signed.signature)
    statement = parse(pb.UserKeys, signed.user_keys, "UserKeys")
    _check_asked_for(statement, trust.realm, username)
    record = _record(statement, key_info, previous)
    _check_record_lifetime(record, trust.constants)
    record.check_fresh(now)
    record.tree()
    _check_times(record, trust.constants)
    return record


def _check_asked_for(statement: pb.UserKeys, realm: str, username: str) -> None:
    if (statement.realm, statement.username) != (realm, username):
        raise RecordRefusedError(
            f"asked for {username} of {realm}, the record is of {statement.username} of {statement.realm}",
            username=username,
        )


def _check_record_lifetime(record: KeyRecord, constants: Constants) -> None:
    if not 0 < record.next_update - record.this_update <= constants.record_lifetime:
        raise MalformedStatementError(f"the record of {record.username} is meant to live longer than the realm allows")


def restore_key_info(key_info: pb.KeyInfo) -> KeyRecord:
    """Return the record of key info that was verified before and kept where nobody else writes.

    Raises:
        MalformedStatementError: it does not parse.
    """
    return _record(parse(pb.UserKeys, key_info.record.user_keys, "UserKeys"), key_info)


def _record(statement: pb.UserKeys, key_info: pb.KeyInfo, previous: KeyRecord | None = None) -> KeyRecord:
    if not statement.entries or len(statement.entries) + len(key_info.history) > MOST_ENTRIES:
        raise MalformedStatementError(f"a record has 1 to {MOST_ENTRIES} entries")
    if statement.reset_time < 0:
        raise MalformedStatementError("a record announces an identity reset for a time, or none")
    keys = tuple(_key(entry, statement.this_update) for entry in statement.entries)
    history = _whole_history(statement, key_info, keys, previous)
    record = KeyRecord(
        realm=statement.realm,
        username=statement.username,
        epoch=statement.epoch,
        revision=statement.revision,
        this_update=statement.this_update,
        next_update=statement.next_update,
        keys=keys,
        history=history,
        key_info=pb.KeyInfo(record=key_info.record, history=[request.signed for request in history]),
        reset_time=statement.reset_time,
    )
    _check_owner(record)
    _check_order(record)
    _check_epochs(record)
    _check_one_good_key(record)
    return record


def _whole_history(
    statement: pb.UserKeys, key_info: pb.KeyInfo, keys: Sequence[Key], previous: KeyRecord | None
) -> tuple[KeyRequest, ...]:
    shown = tuple(read_key_request(request) for request in key_info.history)
    if previous is None:
        return shown
    held = (request for request in previous.requests if request.epoch == statement.epoch)
    history = complete_history(shown, (key.request for key in keys), held)
    if len(keys) + len(history) > MOST_ENTRIES:
        raise MalformedStatementError(f"a record and its history have at most {MOST_ENTRIES} entries")
    return history


def _key(entry: pb.KeyEntry, this_update: int) -> Key:
    if (
        entry.state not in STATES
        or not 1 <= entry.state_time <= this_update
        or not 1 <= entry.enter_time <= this_update
    ):
        raise MalformedStatementError("an entry has no known state, or a time later than its record")
    if (entry.state == REVOKED) == (entry.reason == pb.REVOCATION_REASON_UNSPECIFIED):
        raise MalformedStatementError("revoked entries have a reason, and no others")
    if entry.state == GOOD and entry.state_time != entry.enter_time:
        raise MalformedStatementError("a good key is good since it entered")
    return Key(read_key_request(entry.request), entry.state, entry.state_time, entry.enter_time, entry.reason)


def _check_owner(record: KeyRecord) -> None:
    for request in record.requests:
        if (request.realm, request.address.username) != (record.realm, record.username):
            raise MalformedStatementError("an entry is of another realm or user than its record")


def _check_order(record: KeyRecord) -> None:
    # Each revision is one change: two keys never enter at the same one, nor one key twice.
    entered = [key.request.revision for key in record.keys]
    times = [key.enter_time for key in record.keys]
    if entered != sorted(set(entered)) or times != sorted(times) or entered[-1] > record.revision:
        raise MalformedStatementError("the entries are not in the order in which they entered")
    if len({request.fingerprint for request in record.requests}) != len(record.requests):
        raise MalformedStatementError("a key is named twice")


def _check_epochs(record: KeyRecord) -> None:
    for key in record.keys:
        if key.request.epoch > record.epoch or (key.request.epoch < record.epoch and key.state != REVOKED):
            raise MalformedStatementError("an identity reset revokes all earlier keys, and no key is of a later epoch")


def _check_one_good_key(record: KeyRecord) -> None:
    renewed = {request.parent_fingerprint for request in record.requests if request.kind == pb.KEY_REQUEST_KIND_RENEW}
    current: set[Address] = set()
    for key in record.keys:
        if not key.is_good:
            continue
        if key.fingerprint in renewed or key.address in current:
            raise MalformedStatementError("a device has one good key at a time")
        current.add(key.address)


def _check_times(record: KeyRecord, constants: Constants) -> None:
    for key in record.keys:
        _check_key_lifetime(key, constants)
        if (parent := record.parent_of(key.request)) is not None:
            _check_parent_unexpired(key, parent, constants)
            _check_parent_not_ended(record, key, parent)


def _check_key_lifetime(key: Key, constants: Constants) -> None:
    if key.expire_time - key.enter_time > constants.longest_key_lifetime:
        raise MalformedStatementError("a key is meant to live longer than the realm allows")


def _check_parent_unexpired(child: Key, parent: KeyRequest, constants: Constants) -> None:
    grace = constants.renewal_window if child.request.kind == pb.KEY_REQUEST_KIND_RENEW else 0
    if child.enter_time >= parent.expire_time + grace:
        raise EndorsementError("a key vouched for another after it had expired, or after its renewal window")


def _check_parent_not_ended(record: KeyRecord, child: Key, parent: KeyRequest) -> None:
    ended = record.find(parent.fingerprint)
    # What a compromised key vouched for is void from a time of its own: see KeyRecord.is_void.
    if ended and not ended.is_good and not ended.is_compromised and child.enter_time > ended.state_time:
        raise EndorsementError("a key vouched for another after it had ended")
