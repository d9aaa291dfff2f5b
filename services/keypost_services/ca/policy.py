"""Which keys the realm takes: pure rules over a request and the user as recorded (docs/spec.md, "Keys over time")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.clock import MINUTE
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


@dataclass(frozen=True)
class Policy:
    """The realm's rules for new keys.

    Attributes:
        constants: The realm's constants.
        key_lifetime: The longest lifetime that this CA grants, milliseconds; not above the realm's.
        most_recent_keys: How many keys a record has at most.
        most_entries: How many keys a record and its history have at most: with more nobody could read it.
    """

    constants: Constants
    key_lifetime: int
    most_recent_keys: int = MOST_RECENT_KEYS
    most_entries: int = MOST_ENTRIES

    def __post_init__(self) -> None:
        if not MINUTE <= self.key_lifetime <= self.constants.longest_key_lifetime:
            raise ValueError("the lifetime of keys is above the realm's longest_key_lifetime")

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

    def check_room(self, user: User, epoch: int, now: int) -> None:
        """Check that one more key, of `epoch`, does not make the record grow without bound.

        Raises:
            ServiceError: RATE_LIMITED, until enough keys are older than the retention; a full history stays full for
                as long as the epoch.
        """
        entries = self.entries_of(user, now)
        if len(entries) >= self.most_recent_keys:
            first_end = min((key.state_time for key in entries if not is_good(key)), default=now)
            raise errors.record_full(first_end + self.constants.retention - now)
        history = history_of(user, entries) if epoch == user.epoch else []
        if len(entries) + len(history) >= self.most_entries:
            raise errors.record_full(self.constants.retention)

    def entries_of(self, user: User, now: int) -> list[RecordedKey]:
        """Return the keys that stand in the record: good, ended within the retention, compromised, or its children.

        What a compromised key vouched for after its compromise stays void, and what it vouched for before stays good:
        either would be hidden by their absence.
        """
        compromised = {key.fingerprint for key in user.keys if key.reason == pb.REVOCATION_REASON_COMPROMISED}
        return [
            key
            for key in user.keys
            if is_good(key)
            or now < key.state_time + self.constants.retention
            or compromised & {key.fingerprint, key.parent_fingerprint}
        ]


def history_of(user: User, entries: Sequence[RecordedKey], history_from: bytes = b"") -> Sequence[RecordedKey]:
    """Return the keys that lead from `history_from`, or from the root, to the entries; oldest first.

    From each entry of the epoch the parents are followed up; what other branches need is kept whole.
    """
    by_fingerprint = {key.fingerprint: key for key in user.keys}
    shown = {key.fingerprint for key in entries}
    wanted: set[bytes] = set()
    for entry in entries:
        key: RecordedKey | None = entry if entry.epoch == user.epoch else None
        while key is not None and key.fingerprint != history_from:
            key = by_fingerprint.get(key.parent_fingerprint)
            if key is None or key.fingerprint in wanted:
                break
            wanted.add(key.fingerprint)
    return [key for key in user.keys if key.fingerprint in wanted - shown]


def is_good(key: RecordedKey) -> bool:
    """Whether a key is neither superseded nor revoked (it may be expired)."""
    return key.state == pb.KEY_STATE_GOOD


def has_usable_device(user: User | None, now: int) -> bool:
    """Whether the user has a device with a good and unexpired key."""
    return user is not None and any(is_good(key) and now < key.expire_time for key in user.keys)


def next_revision(user: User | None) -> int:
    """Return the revision at which the user's next key enters."""
    return 1 if user is None else user.revision + 1


def enrollment_epoch(user: User | None, now: int) -> int:
    """Return the epoch that the next enrolment belongs to.

    A first key without a parent begins a tree of its own, so it begins an epoch; where a usable device could vouch
    for it, the epoch stays.
    """
    if user is None:
        return 1
    return user.epoch if has_usable_device(user, now) else user.epoch + 1


def check_needs_no_approval(user: User | None, now: int) -> None:
    """Check that the user has no device that could vouch for a further one.

    Raises:
        ServiceError: APPROVAL_REQUIRED.
    """
    if has_usable_device(user, now):
        raise errors.approval_required()


def check_revision(request: KeyRequest, user: User | None, epoch: int) -> None:
    """Check that the request was made for the record as it stands.

    Raises:
        ServiceError: REVISION_TAKEN.
    """
    revision = next_revision(user)
    if (request.epoch, request.revision) != (epoch, revision):
        raise errors.revision_taken(revision - 1)
