"""The audit log: who did what to which key, from where. Append-only; each entry hashes the one before it.

What the hashes show: no entry was altered, removed or put in between since a later one's hash was seen. Who can write
to the database can make a log of his own from any entry on; a hash that was noted elsewhere gives him away.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.protocol.encoding import int_bytes, pae, sha256

if TYPE_CHECKING:
    from collections.abc import Iterable

_LABEL = b"keypost/ca/audit-entry"
_HASH_BYTES = 32
_LONGEST_PEER = 64


class AuditBrokenError(Exception):
    """The entries are not those that were written; the message says from which one on."""

    reason = "AUDIT_BROKEN"


class Action(enum.StrEnum):
    """What was done."""

    ENROLLED = "enrolled"
    APPROVED = "approved"
    RENEWED = "renewed"
    REVOKED = "revoked"
    RESET_ANNOUNCED = "reset_announced"
    RESET_ALLOWED = "reset_allowed"
    RESET_CANCELLED = "reset_cancelled"
    RESET_DONE = "reset_done"
    CODE_MADE = "code_made"
    TRUST_INSTALLED = "trust_installed"
    ROOT_KEY_ADDED = "root_key_added"
    ROOT_KEY_REMOVED = "root_key_removed"
    RECORD_KEY_ADDED = "record_key_added"
    RECORD_KEY_CHANGED = "record_key_changed"
    RECORD_KEY_RETIRED = "record_key_retired"
    CODE_WITHDRAWN = "code_withdrawn"


class ActorKind(enum.StrEnum):
    """How the CA knows who did it."""

    DEVICE = "device"
    SIGN_IN = "sign_in"
    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    ROOT_KEY = "root_key"


@dataclass(frozen=True)
class Actor:
    """Who did something.

    Attributes:
        kind: How the CA knows.
        name: The address of the device that signed, the kind of sign-in, the name of the administrator, the fingerprint
            of the root key that signed (64 hexadecimal digits); empty for an operator, who works on the CA's own
            machine.
        evidence: What the actor signed, with the signature; empty where the key request that enters is all.
    """

    kind: ActorKind
    name: str = ""
    evidence: bytes = field(default=b"", repr=False)


OPERATOR = Actor(ActorKind.OPERATOR)


@dataclass(frozen=True)
class Origin:
    """Where a call came from; empty outside of one.

    Attributes:
        peer: The network address, as ``ipv4:192.0.2.1:4711``; of what a CA does by itself the machine, as
            ``host:ca-0``.
        request_id: The id of the request, by which the CA's own log has the call.
    """

    peer: str = ""
    request_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "peer", self.peer[:_LONGEST_PEER])


NOWHERE = Origin()


@dataclass(frozen=True)
class Act:
    """What an entry tells.

    Attributes:
        create_time: When, Unix milliseconds.
        action: What was done, an ``Action``; what a stored entry says may be anything.
        actor_kind: How the CA knows who did it, an ``ActorKind``.
        actor: Who, as ``Actor.name``.
        username: To whose record; empty where it concerns the realm's own keys.
        device_id: To which device; empty where it concerns the user as a whole.
        fingerprint: To which key, 32 bytes; empty where to none. Of an installed trust statement its SHA-256.
        revision: The revision of the record that it led to; 0 where to none. Of the realm's own keys the sequence of
            the trust statement.
        reason: Why a key was revoked, the number of the enum of the protos; 0 otherwise.
        peer: From where (see ``Origin``).
        request_id: By which request.
        evidence: The signed statement: a serialised SignedKeyRequest, SignedRevocation, SignedResetCancellation or
            SignedRealmTrust; of a one-time code its hash (32 bytes). Of several entries of one change the first one has
            it.
    """

    create_time: int
    action: str
    actor_kind: str
    actor: str
    username: str
    device_id: str = ""
    fingerprint: bytes = b""
    revision: int = 0
    reason: int = 0
    peer: str = ""
    request_id: str = ""
    evidence: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Head:
    """The newest entry, as much of it as whoever notes it elsewhere needs.

    Attributes:
        sequence: Its number; 0: there is none.
        hash: Its hash: 32 bytes, of all entries up to it.
    """

    sequence: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash.hex()}"


BEGINNING = Head(0, bytes(_HASH_BYTES))


@dataclass(frozen=True)
class AuditEntry:
    """An act in its place: never altered, never removed.

    Attributes:
        sequence: Its number, from 1, without gaps.
        act: What it tells.
        hash: 32 bytes (see ``hash_of``).
    """

    sequence: int
    act: Act
    hash: bytes


def hash_of(previous: Head, act: Act) -> bytes:
    """Return the hash of the entry after ``previous``: 32 bytes, SHA-256 of the PAE of everything before and in it."""
    numbers = (previous.sequence + 1, act.create_time)
    texts = (act.action, act.actor_kind, act.actor, act.username, act.device_id)
    more = (act.fingerprint, int_bytes(act.revision), int_bytes(act.reason))
    pieces = (
        *map(int_bytes, numbers),
        *(text.encode() for text in texts),
        *more,
        act.peer.encode(),
        act.request_id.encode(),
        act.evidence,
    )
    return sha256(pae(_LABEL, previous.hash, *pieces))


def chain(previous: Head, acts: Iterable[Act]) -> list[AuditEntry]:
    """Return the entries that ``acts`` become after ``previous``."""
    entries = []
    for act in acts:
        entry = AuditEntry(previous.sequence + 1, act, hash_of(previous, act))
        entries.append(entry)
        previous = Head(entry.sequence, entry.hash)
    return entries


def verify_chain(previous: Head, entries: Iterable[AuditEntry], noted: Head = BEGINNING) -> Head:
    """Verify that entries follow each other as they were written; return the last.

    Args:
        previous: The entry before them, verified already; ``BEGINNING`` for the first.
        entries: All that follow, in order.
        noted: A head that was noted elsewhere; if it is among them, it must be the same.

    Raises:
        AuditBrokenError: One was altered, removed, or put in.
    """
    for entry in entries:
        _check_place(previous, entry)
        _check_hash(previous, entry)
        previous = Head(entry.sequence, entry.hash)
        _check_noted(previous, noted)
    return previous


def check_reaches(head: Head, noted: Head) -> None:
    """Check that a verified log goes on at least to the head that was noted elsewhere.

    Raises:
        AuditBrokenError: It ends before.
    """
    if head.sequence < noted.sequence:
        raise AuditBrokenError(f"the log ends with entry {head.sequence}: {noted.sequence} was noted, and is gone")


def read_head(text: str) -> Head:
    """Return the head that ``str`` of one wrote.

    Raises:
        ValueError: The text is none.
    """
    sequence, _, digest = text.partition(":")
    if not (sequence.isascii() and sequence.isdecimal() and len(digest) == 2 * _HASH_BYTES):
        raise ValueError("a head is the number of an entry, a colon, and its hash in 64 hexadecimal digits")
    return Head(int(sequence), bytes.fromhex(digest))


def _check_place(previous: Head, entry: AuditEntry) -> None:
    if entry.sequence != previous.sequence + 1:
        raise AuditBrokenError(f"entry {previous.sequence + 1} is not in its place: it was removed, or one was put in")


def _check_hash(previous: Head, entry: AuditEntry) -> None:
    try:
        right = entry.hash == hash_of(previous, entry.act)
    except (OverflowError, AttributeError, TypeError):
        right = False  # a value of a kind that is never written
    if not right:
        raise AuditBrokenError(f"entry {entry.sequence} is not what was written: it was altered, or one before it was")


def _check_noted(head: Head, noted: Head) -> None:
    if head.sequence == noted.sequence and head.hash != noted.hash:
        raise AuditBrokenError(f"entry {head.sequence} is not the one that was noted: the log was written anew")
