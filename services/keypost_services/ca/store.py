"""What the CA keeps, and the port through which it keeps it.

A *change* is one step of one user's record: revision by revision, all or nothing. The rules of who may change
what are not here but in the domain (``enrollment``, ``renewal``); a store only guarantees that a change applies
to exactly the revision that the domain judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keypost.errors import KeypostError
from keypost.protocol.encoding import sha256
from keypost.protocol.realm_trust import sequence_of
from keypost_services.ca.audit import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.keys.v1 import key_info_pb2 as pb
    from keypost.keys.v1 import realm_trust_pb2 as trust_pb
    from keypost_services.ca.audit import Act, Actor, AuditEntry, Head, Origin


class RevisionTakenError(Exception):
    """The record is no longer at the revision to which the change was made."""


class KeyAlreadyKnownError(Exception):
    """The public key has been recorded before, for whomever."""


class CodeUsedError(Exception):
    """The one-time code has been used up, or withdrawn, in the meantime."""


class IdentityTakenError(Exception):
    """Somebody else has signed in as the user in the meantime, or the same subject as another user."""


class StoreAwayError(KeypostError):
    """The database is not there, or does not answer in time: whether a change was made is then unknown.

    Attributes:
        retry_after_ms: When to try again, milliseconds.
    """

    reason = "DATABASE_UNAVAILABLE"
    retry_after_ms = 500


@dataclass(frozen=True)
class RecordedKey:
    """A key as the CA recorded it.

    Attributes:
        fingerprint: 32 bytes, SHA-256 of the SubjectPublicKeyInfo; unique over all keys ever recorded.
        parent_fingerprint: 32 bytes, or empty for a root.
        expire_time: Unix milliseconds.
        key_request: The statement as it was received.
        possession: The signature of the key itself.
        endorsement: The signature of the parent; empty for a root.
        enter_time: When the key entered, Unix milliseconds.
        state_time: Since when the key is in its state, Unix milliseconds.
    """

    fingerprint: bytes
    username: str
    device_id: str
    suite: pb.Suite.ValueType
    kind: pb.KeyRequestKind.ValueType
    epoch: int
    revision: int
    parent_fingerprint: bytes
    expire_time: int
    key_request: bytes
    possession: bytes
    endorsement: bytes
    enter_time: int
    state: pb.KeyState.ValueType
    state_time: int
    reason: pb.RevocationReason.ValueType = 0  # type: ignore[assignment]  # unspecified


@dataclass(frozen=True)
class User:
    """A user and every key that was ever recorded for them, in the order in which the keys entered.

    Attributes:
        reset_time: From when on an announced identity reset may take place, Unix milliseconds; 0: none is announced.
    """

    username: str
    epoch: int
    revision: int
    keys: tuple[RecordedKey, ...]
    reset_time: int = 0

    def no_earlier(self, now: int) -> int:
        """Return ``now``, or the newest time on record if the clock has gone back behind it.

        Times in a record never fall from one revision to the next, whatever a clock does or another replica's says.
        """
        return max([now, *(key.enter_time for key in self.keys), *(key.state_time for key in self.keys)])

    def find(self, fingerprint: bytes) -> RecordedKey | None:
        """Return the key with this fingerprint (32 bytes), or None."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)


@dataclass(frozen=True)
class Ending:
    """A good key that stops being good; or a superseded one that is revoked, and stays ended since when it was.

    Attributes:
        since: Since when, Unix milliseconds, where that is not the time of the change; a time on record is never moved
            to a later one.
    """

    fingerprint: bytes
    state: pb.KeyState.ValueType
    reason: pb.RevocationReason.ValueType = 0  # type: ignore[assignment]  # unspecified
    since: int | None = None


@dataclass(frozen=True)
class EventDraft:
    """An event that has no number yet."""

    kind: pb.KeyEventKind.ValueType
    fingerprint: bytes = b""
    ended_fingerprint: bytes = b""


@dataclass(frozen=True)
class Event:
    """A numbered change: never altered, never removed."""

    sequence: int
    username: str
    revision: int
    kind: pb.KeyEventKind.ValueType
    fingerprint: bytes
    ended_fingerprint: bytes
    create_time: int


@dataclass(frozen=True)
class Change:
    """The step of a user's record to ``revision``, from the revision before it.

    Attributes:
        username: The user.
        epoch: The user's epoch from then on.
        revision: The user's revision from then on.
        time: When, Unix milliseconds.
        events: What is told to watchers, in this order.
        actor: Who makes it, for the audit log.
        key: The key that enters at this revision, if one does.
        endings: The keys that stop being good.
        reset_time: From when on an announced identity reset may take place, Unix milliseconds; 0: none is announced.
        code_hash: The one-time code that this uses up, or None; only with a key.
        origin: From where it is made, for the audit log.
        identity: Who signed in at an issuer for this, to be kept if nobody did before; None without an issuer.
    """

    username: str
    epoch: int
    revision: int
    time: int
    events: tuple[EventDraft, ...]
    actor: Actor
    key: RecordedKey | None = None
    endings: tuple[Ending, ...] = ()
    reset_time: int = 0
    code_hash: bytes | None = field(default=None, repr=False)
    origin: Origin = NOWHERE
    identity: Identity | None = None


@dataclass(frozen=True)
class Identity:
    """Who signs in as a user: a subject of an issuer, and for ever the first one.

    Attributes:
        issuer: The issuer's URL, at most 512 characters.
        subject: How the issuer names whom it means; never given to anybody else. At most 255 characters.
    """

    username: str
    issuer: str
    subject: str = field(repr=False)


@dataclass(frozen=True)
class OneTimeCode:
    """A one-time code; the code itself is not kept.

    Attributes:
        code_hash: 32 bytes that also bind the username and the realm (see ``codes``).
        expire_time: Unix milliseconds; ``ENDED``: it was withdrawn, or ended after a restore.
        used_fingerprint: The key that it was used up for; empty while it is unused.
    """

    code_hash: bytes = field(repr=False)
    username: str
    expire_time: int
    used_fingerprint: bytes = b""


ENDED = 0
"""The ``expire_time`` of a one-time code that was ended before its time: no clock takes it for a good one."""


@dataclass(frozen=True)
class DrawnCode:
    """A one-time code, with what the audit log tells of its making.

    Attributes:
        code: The code.
        create_time: When it was drawn, Unix milliseconds; 0: the log does not tell.
        actor_kind: How the CA knows who drew it, an ``ActorKind``; empty: the log does not tell.
        actor: Who, as ``Actor.name``.
    """

    code: OneTimeCode
    create_time: int
    actor_kind: str
    actor: str


@dataclass(frozen=True)
class CodeFilter:
    """Which one-time codes are wanted.

    Attributes:
        username: Those for this user; None: for whomever.
        code_id: Those whose hash begins so, 32 bytes at most; empty: whatever their hash.
        open_at: Those that are good at this time, Unix milliseconds: unused, not ended, not expired; None: all.
    """

    username: str | None = None
    code_id: bytes = b""
    open_at: int | None = None


@dataclass(frozen=True)
class InstalledTrust:
    """A trust statement that a CA takes up.

    Attributes:
        signed: The statement, verified, with its signature.
        time: When, Unix milliseconds.
        origin: Which CA, for the audit log.
    """

    signed: trust_pb.SignedRealmTrust
    time: int
    origin: Origin = NOWHERE

    @property
    def sequence(self) -> int:
        """The sequence of the statement; raises MalformedStatementError if it is none."""
        return sequence_of(self.signed)

    @property
    def hash(self) -> bytes:
        """SHA-256 of the statement, whoever signed it: 32 bytes."""
        return sha256(self.signed.realm_trust)


@dataclass(frozen=True)
class AuditFilter:
    """Which entries of the audit log are wanted.

    Attributes:
        username: Those about this user; None: about whomever.
        from_time: Not earlier, Unix milliseconds.
        until_time: Earlier than this, Unix milliseconds; None: to the end.
    """

    username: str | None = None
    from_time: int = 0
    until_time: int | None = None


EVERYTHING = AuditFilter()


@dataclass(frozen=True)
class UserSummary:
    """A user in a list.

    Attributes:
        reset_time: As in ``User``.
        good_keys: How many keys are neither superseded nor revoked; they may be expired.
    """

    username: str
    epoch: int
    revision: int
    reset_time: int
    good_keys: int


class Store(Protocol):
    """What the CA needs from a database. Every method is one transaction.

    Every method raises StoreAwayError if the database is not there; then a change may have been made all the same, and
    who makes it again is told that it was overtaken.
    """

    async def find_users(self, usernames: Sequence[str]) -> Mapping[str, User]:
        """Return those of the users that exist, each as it was at one moment."""
        ...

    async def count_ending(self, from_time: int, until_time: int) -> int:
        """Return how many good keys end from one time on and before another, Unix milliseconds."""
        ...

    async def find_key(self, fingerprint: bytes) -> RecordedKey | None:
        """Return the key with this fingerprint, of whatever user and state."""
        ...

    async def apply(self, change: Change, expected: Sequence[AuditEntry] = ()) -> Sequence[AuditEntry]:
        """Apply a change whole, with its entries in the audit log, or not at all; return those.

        Args:
            change: The change.
            expected: The entries that it must lead to, where it is made again; none where it is new.

        Raises:
            AuditBrokenError: It would lead to other entries.
            RevisionTakenError: The user is not at the revision before it.
            KeyAlreadyKnownError: The key's fingerprint has been recorded before.
            CodeUsedError: The one-time code is used up, withdrawn, or gone.
            IdentityTakenError: Another identity stands for the user, or this one for another user.
        """
        ...

    async def list_users(self, after_username: str, limit: int) -> Sequence[UserSummary]:
        """Return at most `limit` users whose names come after `after_username`, ordered by name."""
        ...

    async def add_code(self, code: OneTimeCode, act: Act, expected: Sequence[AuditEntry] = ()) -> Sequence[AuditEntry]:
        """Keep a new one-time code, and enter in the audit log that it was made; return the entry.

        Raises:
            AuditBrokenError: It is not the ``expected`` one.
        """
        ...

    async def enter_trust(self, installed: InstalledTrust, expected: Sequence[AuditEntry] = ()) -> Sequence[AuditEntry]:
        """Enter in the audit log that a trust statement was taken up, with each key that it adds, changes or ends.

        A statement is entered once, whoever takes it up and however often: then there is nothing to return.

        Args:
            installed: The statement.
            expected: The entries that this must lead to, where it is made again; none where it is new.

        Raises:
            AuditBrokenError: It would lead to other entries.
        """
        ...

    async def find_contradicting_trust(self, sequence: int, statement_hash: bytes) -> AuditEntry | None:
        """Return the entry of a trust statement that contradicts this one, None if there is none.

        That is one of a higher sequence, or another one of the same: whoever has seen it refuses this one. Of several
        it is the newest of the highest sequence.

        Args:
            sequence: The statement's.
            statement_hash: The SHA-256 of the statement, whoever signed it: 32 bytes.
        """
        ...

    async def list_codes(self, wanted: CodeFilter, limit: int, after: OneTimeCode | None = None) -> Sequence[DrawnCode]:
        """Return at most `limit` one-time codes that come after one, ordered by username, expiry and hash."""
        ...

    async def withdraw_codes(
        self, act: Act, code_id: bytes = b"", expected: Sequence[AuditEntry] = ()
    ) -> Sequence[AuditEntry]:
        """End one-time codes of a user that are open, and enter in the audit log that each was withdrawn.

        Args:
            act: What is told of each, but for its hash, which is added: whose codes, when, by whom.
            code_id: Those whose hash begins so; empty: all.
            expected: The entries that this must lead to, where it is made again, whether they are open there or not;
                none where it is new.

        Returns:
            The entries, in the order of their hashes; none if no such code is open.

        Raises:
            AuditBrokenError: It would lead to other entries.
        """
        ...

    async def find_code(self, code_hash: bytes) -> OneTimeCode | None:
        """Return the code with this hash (32 bytes)."""
        ...

    async def find_identities(self, identity: Identity) -> Sequence[Identity]:
        """Return those kept that share the user, or issuer and subject, with this one: two at most."""
        ...

    async def list_events(self, after_sequence: int, limit: int) -> Sequence[Event]:
        """Return at most `limit` events with numbers above `after_sequence`, in order and without a gap."""
        ...

    async def newest_sequence(self) -> int:
        """Return the number of the newest event, 0 when there is none."""
        ...

    async def list_audit_entries(
        self, after_sequence: int, limit: int, wanted: AuditFilter = EVERYTHING
    ) -> Sequence[AuditEntry]:
        """Return at most `limit` entries of the audit log with numbers above `after_sequence`, in order."""
        ...

    async def audit_head(self) -> Head:
        """Return the newest entry of the audit log."""
        ...

    async def keep_secret(self, name: str, proposal: bytes) -> bytes:
        """Return the secret of that name; the first caller's proposal becomes it, for every process."""
        ...
