"""Which keys the realm takes: pure rules over a request and the user as recorded (docs/spec.md, "Keys over time")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.clock import DAY, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.key_info import MOST_ENTRIES
from keypost_services.ca import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.key_requests import KeyRequest
    from keypost.protocol.realm_trust import Constants
    from keypost_services.ca.store import RecordedKey, User

MOST_RECENT_KEYS = 100
"""How many keys of one user may enter within the retention: each stands in every answer about the user."""
MOST_DEVICES = 32
"""How many devices of one user may have a good key: whoever writes to the user seals to each."""
RESET_STAYS_OPEN = 7 * DAY
"""How long an announced identity reset may take place: one that was forgotten is no open door for ever."""


@dataclass
class Policy:
    """The realm's rules for new keys.

    Attributes:
        constants: The realm's constants; ``follow`` takes those of the next trust statement.
        key_lifetime: The longest lifetime that this CA grants, milliseconds; not above the realm's.
        most_recent_keys: How many keys a record has at most.
        most_entries: How many keys a record and its history have at most: with more nobody could read it.
        most_devices: How many devices of a user have a good key at most.
    """

    constants: Constants
    key_lifetime: int
    most_recent_keys: int = MOST_RECENT_KEYS
    most_entries: int = MOST_ENTRIES
    most_devices: int = MOST_DEVICES

    def __post_init__(self) -> None:
        self.check_follows(self.constants)

    def check_follows(self, constants: Constants) -> None:
        """Raise ValueError if this CA could not go by these constants."""
        if not MINUTE <= self.key_lifetime <= constants.longest_key_lifetime:
            raise ValueError("the lifetime of keys is above the realm's longest_key_lifetime")

    def follow(self, constants: Constants) -> None:
        """Go by the constants of another trust statement from now on; raises as ``check_follows``."""
        self.check_follows(constants)
        self.constants = constants

    def check_suite(self, request: KeyRequest) -> None:
        """Check that the realm allows the suite of a key.

        Raises:
            ServiceError: SUITE_NOT_ALLOWED.
        """
        if request.suite.id not in self.constants.allowed_suites:
            raise errors.suite_not_allowed(f"the realm does not allow the suite {request.suite.name}")

    def check_lifetime(self, request: KeyRequest, now: int) -> None:
        """Check that a key ends, and not too late.

        Raises:
            ServiceError: KEY_LIFETIME_REFUSED.
        """
        if not now < request.expire_time <= now + self.key_lifetime:
            raise errors.key_lifetime_refused(now + self.key_lifetime)

    def check_window(self, parent: RecordedKey, now: int) -> None:
        """Check that a key may still be renewed, expired or not.

        Raises:
            ServiceError: RENEWAL_WINDOW_OVER.
        """
        if now >= parent.expire_time + self.constants.renewal_window:
            raise errors.renewal_window_over()

    def check_devices(self, user: User) -> None:
        """Check that the user may have one more device.

        Raises:
            ServiceError: TOO_MANY_DEVICES.
        """
        if sum(map(is_good, user.keys)) >= self.most_devices:
            raise errors.too_many_devices(self.most_devices)

    def check_room(self, user: User, epoch: int, now: int) -> None:
        """Check that one more key, of `epoch`, does not make the record grow without bound.

        Raises:
            ServiceError: RATE_LIMITED, until enough keys are older than the retention; a full history stays full for
                as long as the epoch.
        """
        entries = self.entries_of(user, now)
        recent = [key for key in entries if is_good(key) or now < _last_time(key) + self.constants.retention]
        if len(recent) >= self.most_recent_keys:
            first_end = min((_last_time(key) for key in recent if not is_good(key)), default=now)
            raise errors.record_full(first_end + self.constants.retention - now)
        history = history_of(user, entries) if epoch == user.epoch else []
        if len(entries) + len(history) >= self.most_entries:
            raise errors.record_full(self.constants.retention)

    def entries_of(self, user: User, now: int) -> list[RecordedKey]:
        """Return the keys that stand in the record: good, ended within the retention, compromised, or its children.

        There is always one of the epoch.

        What a compromised key vouched for after its compromise stays void, and what it vouched for before stays good:
        either would be hidden if it stood in the history, where keys have no times. A child that nothing on record
        descends from has left for good: whoever saw it leave would take it for a ghost if it came back.
        """
        compromised = {key.fingerprint for key in user.keys if key.reason == pb.REVOCATION_REASON_COMPROMISED}
        staying = [
            key
            for key in user.keys
            if is_good(key) or now < key.state_time + self.constants.retention or key.fingerprint in compromised
        ]
        if not any(key.epoch == user.epoch for key in staying):
            staying.append(_last_of_epoch(user))
        on_record = {key.fingerprint for key in staying}
        needed = {key.fingerprint for key in history_of(user, staying) if key.parent_fingerprint in compromised}
        shown = on_record | needed
        return [key for key in user.keys if key.fingerprint in shown]


def _last_of_epoch(user: User) -> RecordedKey:
    """Return the key that ended last: without it nothing on record would lead to the root, and there were no record."""
    of_epoch = (key for key in user.keys if key.epoch == user.epoch)
    return max(of_epoch, key=lambda key: (key.state_time, key.revision))


def _last_time(key: RecordedKey) -> int:
    """Return when a key entered or ended, whichever is later: a compromised one may have ended before it entered."""
    return max(key.enter_time, key.state_time)


def history_of(user: User, entries: Sequence[RecordedKey], history_from: bytes = b"") -> Sequence[RecordedKey]:
    """Return the keys that lead from the root to the entries, but for those that the asker holds; oldest first.

    Args:
        user: The user.
        entries: The keys that stand in the record.
        history_from: The newest key that the asker knows (32 bytes), with all that entered before; empty: none.
    """
    by_fingerprint = {key.fingerprint: key for key in user.keys}
    shown = {key.fingerprint for key in entries}
    wanted: set[bytes] = set()
    for entry in entries:
        key: RecordedKey | None = entry if entry.epoch == user.epoch else None
        while key is not None:
            key = by_fingerprint.get(key.parent_fingerprint)
            if key is None or key.fingerprint in wanted:
                break
            wanted.add(key.fingerprint)
    known = by_fingerprint.get(history_from)
    held = known.revision if known is not None and known.epoch == user.epoch else 0
    return [key for key in user.keys if key.fingerprint in wanted - shown and key.revision > held]


def is_good(key: RecordedKey) -> bool:
    """Whether a key is neither superseded nor revoked (it may be expired)."""
    return key.state == pb.KEY_STATE_GOOD


def has_usable_device(user: User | None, now: int) -> bool:
    """Whether the user has a device with a good and unexpired key."""
    return user is not None and any(is_good(key) and now < key.expire_time for key in user.keys)


def next_revision(user: User | None) -> int:
    """Return the revision at which the user's next key enters."""
    return 1 if user is None else user.revision + 1


def reset_is_announced(user: User, now: int) -> bool:
    """Whether an identity reset was announced and may still take place, now or later."""
    return user.reset_time != 0 and now < user.reset_time + RESET_STAYS_OPEN


def reset_is_due(user: User | None, now: int) -> bool:
    """Whether an announced identity reset may take place now."""
    return user is not None and reset_is_announced(user, now) and user.reset_time <= now


def enrollment_kind(user: User | None, now: int) -> pb.KeyRequestKind.ValueType:
    """Return as what the next first key enters: RESET where it ends good devices that could have vouched for it."""
    if has_usable_device(user, now) and reset_is_due(user, now):
        return pb.KEY_REQUEST_KIND_RESET
    return pb.KEY_REQUEST_KIND_ENROLL


def enrollment_epoch(user: User | None, now: int) -> int:
    """Return the epoch that the next enrolment belongs to.

    A first key without a parent begins a tree of its own, so it begins an epoch; where a usable device could vouch
    for it and no reset is due, the epoch stays.
    """
    if user is None:
        return 1
    stays = has_usable_device(user, now) and not reset_is_due(user, now)
    return user.epoch if stays else user.epoch + 1


def check_needs_no_approval(request: KeyRequest, user: User | None, now: int) -> None:
    """Check that no device of the user could vouch for a first key, or that an announced reset makes it begin anew.

    Raises:
        ServiceError: APPROVAL_REQUIRED; REVISION_TAKEN: the user's devices have ended since a reset was begun.
    """
    kind = enrollment_kind(user, now)
    if has_usable_device(user, now) and (kind, request.kind) != (pb.KEY_REQUEST_KIND_RESET,) * 2:
        raise errors.approval_required()
    if request.kind != kind:
        raise errors.revision_taken(next_revision(user) - 1)


def check_new_device(request: KeyRequest, user: User) -> None:
    """Check that the device of a request never had a key: a nonce is good for ten minutes, and in them for one device.

    Raises:
        ServiceError: NONCE_EXPIRED.
    """
    if any(key.device_id == request.address.device_id for key in user.keys):
        raise errors.nonce_expired()


def check_revision(request: KeyRequest, user: User | None, epoch: int) -> None:
    """Check that the request was made for the record as it stands.

    Raises:
        ServiceError: REVISION_TAKEN.
    """
    if request.epoch != epoch:
        raise errors.revision_taken(next_revision(user) - 1)
    check_next(request.revision, user)


def check_next(revision: int, user: User | None) -> None:
    """Check that a statement was made for the record as it stands.

    Args:
        revision: At which it is to take effect.
        user: The user as recorded.

    Raises:
        ServiceError: REVISION_TAKEN.
    """
    if revision != next_revision(user):
        raise errors.revision_taken(next_revision(user) - 1)
