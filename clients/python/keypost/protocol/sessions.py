"""Which session to send under, and which statement may join one (docs/spec.md, "Sessions")."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.errors import SecondStatementError
from keypost.protocol.extension import DeviceKey, Extension, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.realm_trust import Constants


@dataclass(frozen=True)
class Candidate:
    """A session that might be sent under.

    Attributes:
        session: The session; its opening message was decrypted (or it is the own).
        creator_extension: The statement by which its creator offered it.
        messages_sent: How many messages this device has sent under it.
    """

    session: Session
    creator_extension: Extension
    messages_sent: int


@dataclass(frozen=True)
class Situation:
    """What the sender knows when it chooses.

    Attributes:
        own_key: The key pair it sends with.
        own_record: The newest record of its own user.
        peer_record: The newest record of the recipient.
        recipients: The recipient's keys to seal to, ordered by device_id.
        constants: The realm's.
        now: Unix milliseconds.
    """

    own_key: DeviceKeyPair
    own_record: KeyRecord
    peer_record: KeyRecord
    recipients: Sequence[Key]
    constants: Constants
    now: int


def choose_session(candidates: Iterable[Candidate], situation: Situation) -> Candidate | None:
    """Return the session to send under, or nothing: then negotiate.

    Whoever once held a replaced key must not choose the key that others encrypt under: a session counts only while its
    creator's statement names exactly both users' current revisions and devices.
    """
    fit = [candidate for candidate in candidates if is_fit(candidate, situation)]
    return max(fit, key=lambda candidate: (candidate.session.create_time, candidate.session.key_id), default=None)


def is_fit(candidate: Candidate, situation: Situation) -> bool:
    """Return whether a session may be sent under now."""
    session = candidate.session
    constants = situation.constants
    return (
        session.suite is situation.own_key.suite
        and is_within_rotation(session.create_time, constants, situation.now)
        and candidate.messages_sent < constants.rotation_messages
        and is_creator_good(session.creator, (situation.own_record, situation.peer_record), situation.now)
        and _names_current_keys(candidate.creator_extension, situation)
    )


def is_within_rotation(create_time: int, constants: Constants, now: int) -> bool:
    """Return whether a session that was created at ``create_time`` may be sent under at ``now``; Unix milliseconds."""
    return now < create_time + constants.rotation_period


def is_creator_good(creator: DeviceKey, records: Iterable[KeyRecord], now: int) -> bool:
    """Return whether the key that created a session may be sent to at ``now``.

    Args:
        creator: The device and key.
        records: The newest records of the two users.
        now: Unix milliseconds.
    """
    # A key names its user, so that only that user's record can have it.
    return any(creator == DeviceKey.of(key) for record in records for key in record.good_keys(now))


def _names_current_keys(extension: Extension, situation: Situation) -> bool:
    offered_by_us = extension.signer.address.username == situation.own_record.username
    own, peer = situation.own_record.revision, situation.peer_record.revision
    revisions = (own, peer) if offered_by_us else (peer, own)
    if (extension.sender_revision, extension.recipient_revision) != revisions or not extension.is_creators:
        return False
    keys = situation.recipients if offered_by_us else situation.own_record.good_keys(situation.now)
    return set(extension.recipient_devices) == {DeviceKey.of(key) for key in keys}


def next_create_time(now: int, newest: int) -> int:
    """Return the create time of a new session: later than every session known in the conversation.

    Args:
        now: Unix milliseconds.
        newest: The highest session_create_time known in the conversation, 0 if there is none.
    """
    return max(now, newest + 1)


def check_statement(known_statement: bytes | None, statement: bytes) -> bool:
    """Return whether a signer's statement for a session is already known.

    Args:
        known_statement: The statement that this signer is known to have made for the session.
        statement: The one that came now.

    Raises:
        SecondStatementError: the signer makes another one.
    """
    if known_statement is None:
        return False
    if not hmac.compare_digest(known_statement, statement):
        raise SecondStatementError("the sender made a second statement for one session")
    return True


def check_same_session(known: Session, opened: Session) -> None:
    """Raise :class:`SecondStatementError` if a key_id comes with another key or another creator than it had."""
    same = hmac.compare_digest(known.key, opened.key)
    if not same or (known.creator, known.create_time) != (opened.creator, opened.create_time):
        raise SecondStatementError("a key_id came with another session key")
