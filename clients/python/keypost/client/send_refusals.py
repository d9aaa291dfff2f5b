"""What delivery's refusals of a message mean for the message."""

from __future__ import annotations

from keypost.errors import InvalidArgumentError, KeypostError, RefusedError
from keypost.transport.refusals import Refusal

USER_NOT_FOUND = "USER_NOT_FOUND"
NO_ROOM = frozenset({"MAILBOX_FULL", "SENDER_SHARE_FULL"})
REFUSALS = NO_ROOM | {
    *("INVALID_FIELD", "SENDER_IS_NOT_CALLER", "ENVELOPE_TOO_LARGE", "HEADER_MISMATCH", USER_NOT_FOUND)
}
"""Refusals of the message itself. Others are of its keys, of the caller, or of what is no Keypost service."""
ALREADY_STORED = "MESSAGE_ID_USED"
SESSION_STALE = "SESSION_STALE"
SENDER_IS_NOT_CALLER = "SENDER_IS_NOT_CALLER"


def is_stored_already(answer: object) -> bool:
    """Return whether delivery has this message, as it was sealed before."""
    return isinstance(answer, Refusal) and answer.error.reason == ALREADY_STORED


def is_final(error: KeypostError) -> bool:
    """Return whether this very message was refused; everything else may mend, and the message stays."""
    if isinstance(error, RefusedError):
        return not error.retriable and error.reason in REFUSALS
    return isinstance(error, InvalidArgumentError)
