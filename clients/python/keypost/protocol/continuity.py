"""Key continuity: what a client remembers of a user's keys, and what may follow it (docs/spec.md, "Continuity")."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.errors import (
    EquivocationError,
    ForkDetectedError,
    GhostDeviceError,
    IdentityChangedError,
    KeyUnknownError,
    RecordRegressedError,
    TreeBrokenError,
)
from keypost.protocol.key_info import GOOD, REVOKED, SUPERSEDED, Key, KeyRecord
from keypost.protocol.suites import STRONG, Suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.protocol.key_requests import KeyRequest
    from keypost.protocol.realm_trust import Constants

PROGRESS = {GOOD: 0, SUPERSEDED: 1, REVOKED: 2}


def check_successor(previous: KeyRecord, current: KeyRecord, constants: Constants) -> KeyRecord:
    """Verify that ``current`` may come after ``previous``, and return the one to keep.

    That is ``current``, or ``previous`` if it is the same revision made later.

    Raises:
        RecordRegressedError: a revision, an epoch, or an entry went back, or an entry vanished within the retention, or
            one that had left came back without having ended.
        EquivocationError: two different records of one revision.
        GhostDeviceError: a key claims to have been there all along.
        TreeBrokenError: a key entered by the word of one that had ended before.
    """
    _check_not_back(previous, current)
    if current.revision == previous.revision:
        _check_same(previous, current, constants)
        return current if current.this_update >= previous.this_update else previous
    for key in previous.keys:
        _check_entry(key, previous, current, constants)
    left = {request.fingerprint for request in previous.history}
    for key in current.keys:
        if key.fingerprint in left:
            _check_comes_back_ended(key, previous, current, constants)
    known = {request.fingerprint: request for request in previous.requests}
    # A key that entered and ended while nobody looked may stand in the history alone.
    for request in current.requests:
        if known.get(request.fingerprint) != request:
            _check_no_ghost(request, previous)
            _check_parent_was_good(request, previous, current)
    return current


def _check_not_back(previous: KeyRecord, current: KeyRecord) -> None:
    if current.revision < previous.revision or current.epoch < previous.epoch:
        raise _regressed(
            current,
            f"epoch {current.epoch}, revision {current.revision} comes after epoch {previous.epoch}, revision "
            f"{previous.revision} was seen",
        )


def _check_no_ghost(request: KeyRequest, previous: KeyRecord) -> None:
    if request.revision <= previous.revision:
        raise GhostDeviceError(
            f"device {request.address} claims to have entered at revision {request.revision}, but was not there",
            username=previous.username,
            fingerprint=request.fingerprint.hex(),
        )


def _check_parent_was_good(request: KeyRequest, previous: KeyRecord, current: KeyRecord) -> None:
    parent = current.parent_of(request)
    if parent is None or parent.revision > previous.revision:
        return
    # Whatever is good stands on record: what stood in the history alone had ended.
    before = previous.find(parent.fingerprint)
    if before is None or not before.is_good:
        raise TreeBrokenError(
            f"device {request.address} was vouched for by a key that had ended before", username=previous.username
        )


def _check_comes_back_ended(key: Key, previous: KeyRecord, current: KeyRecord, constants: Constants) -> None:
    """Check a key that had left the record for the history, and turns out to be compromised, or a child of such a one.

    When it left it had ended the retention ago: so it still has.
    """
    if key.is_good or key.state_time + constants.retention > previous.this_update:
        raise _regressed(current, f"key {key.fingerprint.hex()[:8]}, which had ended long ago, came back")


def _check_same(one: KeyRecord, other: KeyRecord, constants: Constants) -> None:
    older, newer = (one, other) if one.this_update <= other.this_update else (other, one)
    same = (older.epoch, older.reset_time, _entries(newer)) == (
        newer.epoch,
        newer.reset_time,
        # Ended keys leave the record by time alone, without a revision of their own.
        [entry for key, entry in zip(older.keys, _entries(older), strict=True) if _stays(key, newer, constants)],
    )
    if not same:
        raise EquivocationError(
            f"there are two different records of {one.username} at revision {one.revision}", username=one.username
        )


def _stays(key: Key, newer: KeyRecord, constants: Constants) -> bool:
    aged = not key.is_good and key.state_time + constants.retention <= newer.this_update
    return not aged or newer.find(key.fingerprint) is not None


def _entries(record: KeyRecord) -> list[bytes]:
    return [key.to_entry().SerializeToString(deterministic=True) for key in record.keys]


def _check_entry(before: Key, previous: KeyRecord, current: KeyRecord, constants: Constants) -> None:
    after = current.find(before.fingerprint)
    if after is None:
        _check_may_leave(before, previous, current, constants)
        return
    for check in (_check_same_entrance, _check_state_advances, _check_end_stays, _check_reason_stays):
        check(before, after, current)


def _check_may_leave(key: Key, previous: KeyRecord, current: KeyRecord, constants: Constants) -> None:
    # A key that was good can have ended at once after it was seen so.
    ended = previous.this_update if key.is_good else key.state_time
    if ended + constants.retention > current.this_update:
        raise _regressed(current, f"key {key.fingerprint.hex()[:8]} vanished")


def _check_same_entrance(before: Key, after: Key, current: KeyRecord) -> None:
    if after.request.signed != before.request.signed or after.enter_time != before.enter_time:
        raise _regressed(current, f"key {before.fingerprint.hex()[:8]} entered by another request than it had")


def _check_state_advances(before: Key, after: Key, current: KeyRecord) -> None:
    if PROGRESS[after.state] < PROGRESS[before.state]:
        raise _regressed(current, f"key {before.fingerprint.hex()[:8]} went back to an earlier state")


def _check_end_stays(before: Key, after: Key, current: KeyRecord) -> None:
    if not before.is_good and after.state_time > before.state_time:
        raise _regressed(current, f"key {before.fingerprint.hex()[:8]} ended later than it had")


def _check_reason_stays(before: Key, after: Key, current: KeyRecord) -> None:
    if after.state == before.state and after.reason != before.reason and not after.is_compromised:
        raise _regressed(current, f"key {before.fingerprint.hex()[:8]} was revoked for another reason")


def _regressed(current: KeyRecord, why: str) -> RecordRegressedError:
    return RecordRegressedError(f"the record of {current.username} went back: {why}", username=current.username)


@dataclass(frozen=True)
class Pins:
    """What a client remembers of one user's keys.

    Attributes:
        username: The user.
        epoch: The epoch that was accepted.
        root: Fingerprint of the root of the tree that was accepted.
        members: Parent fingerprint by fingerprint, of all keys ever seen in that tree.
        successors: The key that replaced a key, by the fingerprint of the replaced one.
        requests: SHA-256 of the key request by fingerprint.
        verified: People compared the safety number of this very epoch and root. It stays as long as they do.

    Keys of earlier epochs that were accepted in their time stay remembered: what they signed may still be on its way.
    """

    username: str
    epoch: int
    root: bytes
    members: Mapping[bytes, bytes]
    successors: Mapping[bytes, bytes]
    requests: Mapping[bytes, bytes]
    verified: bool = False

    def to_bytes(self) -> bytes:
        """Return the pins for the local key store."""
        value = {
            "username": self.username,
            "epoch": self.epoch,
            "root": self.root.hex(),
            "members": _to_hex(self.members),
            "successors": _to_hex(self.successors),
            "requests": _to_hex(self.requests),
            "verified": self.verified,
        }
        return json.dumps(value, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Pins:
        """Return the pins that :meth:`to_bytes` wrote."""
        value = json.loads(data)
        members, successors, requests = (_from_hex(value[name]) for name in ("members", "successors", "requests"))
        # Pins of the first versions say nothing of it: nobody had compared anything.
        verified = value.get("verified", False)
        root = bytes.fromhex(value["root"])
        return cls(value["username"], value["epoch"], root, members, successors, requests, verified)

    def is_verified(self, key: bytes) -> bool:
        """Return whether people compared the identity that the key with this fingerprint belongs to."""
        if not self.verified or key not in self.members:
            return False
        while parent := self.members[key]:
            key = parent
        # Keys of an identity that was accepted before descend from another root.
        return key == self.root

    def is_of_same_identity(self, other: Pins) -> bool:
        """Return whether both are of one epoch and one root."""
        return (self.epoch, self.root) == (other.epoch, other.root)

    def check_known(self, key: Key) -> None:
        """Verify that a key is of the identity that was accepted.

        Raises:
            KeyUnknownError: it is not: nothing that it signed is opened.
        """
        if key.fingerprint not in self.members:
            raise KeyUnknownError(
                f"key {key.fingerprint.hex()[:8]} is not of the identity of {self.username} that is known",
                username=self.username,
            )


def pin(record: KeyRecord, minimum: Suite = STRONG, previous: Pins | None = None) -> Pins:
    """Return pins for ``record`` as it is: at first contact, or when the application accepts a changed identity.

    Args:
        record: The user's verified record.
        minimum: The verifier's minimum suite.
        previous: What was remembered of the user before.

    Raises:
        SuiteRefusedError: no key of the user reaches ``minimum``.
        TreeBrokenError: the keys that reach ``minimum`` do not form one tree.
        ForkDetectedError: a key has another successor than the one remembered.
        EquivocationError: a key entered by another request than the one remembered.
    """
    tree = record.tree(minimum)
    fresh = Pins(record.username, record.epoch, tree.root, tree.members, tree.successors, tree.requests)
    return fresh if previous is None else _merge(previous, fresh)


def check_pins(pins: Pins | None, record: KeyRecord, minimum: Suite = STRONG) -> Pins:
    """Verify that a user's keys descend from those known, and return the pins to remember.

    Args:
        pins: What is remembered; nothing at first contact, which is silent.
        record: The user's verified record.
        minimum: The verifier's minimum suite.

    Raises:
        IdentityChangedError: another epoch or another root; ``metadata["root"]`` is the fingerprint (hex) to accept.
        ForkDetectedError, EquivocationError, SuiteRefusedError, TreeBrokenError: as :func:`pin`.
    """
    if pins is not None:
        _check_same_identity(pins, record, minimum)
    return pin(record, minimum, pins)


def _check_same_identity(pins: Pins, record: KeyRecord, minimum: Suite) -> None:
    root = record.tree(minimum).root
    if (pins.epoch, pins.root) != (record.epoch, root):
        known = "the identity of {} that was verified" if pins.verified else "the identity of {}"
        raise IdentityChangedError(
            f"{known.format(record.username)} changed: compare safety numbers, then accept {root.hex()[:8]}",
            username=record.username,
            root=root.hex(),
        )


def _merge(pins: Pins, fresh: Pins) -> Pins:
    _check_successors_remembered(pins, fresh)
    _check_requests_remembered(pins, fresh)
    return Pins(
        fresh.username,
        fresh.epoch,
        fresh.root,
        {**pins.members, **fresh.members},
        {**pins.successors, **fresh.successors},
        {**pins.requests, **fresh.requests},
        verified=pins.verified and pins.is_of_same_identity(fresh),
    )


def _check_successors_remembered(pins: Pins, fresh: Pins) -> None:
    for replaced, successor in fresh.successors.items():
        if pins.successors.get(replaced, successor) != successor:
            raise ForkDetectedError(f"key {replaced.hex()[:8]} has two successors", username=fresh.username)


def _check_requests_remembered(pins: Pins, fresh: Pins) -> None:
    for own, request in fresh.requests.items():
        if pins.requests.get(own, request) != request:
            raise EquivocationError(f"key {own.hex()[:8]} entered by two requests", username=fresh.username)


def _to_hex(fingerprints: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.hex(): value.hex() for key, value in fingerprints.items()}


def _from_hex(fingerprints: Mapping[str, str]) -> dict[bytes, bytes]:
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in fingerprints.items()}
