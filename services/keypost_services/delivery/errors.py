"""How delivery refuses, as the protos name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import StatusCode

from keypost_services.delivery.mailboxes import MailboxesOutOfMemoryError
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.mailboxes import MailboxesUnavailableError

SOON_MS = 1_000
MESSAGE_ID_USED = "MESSAGE_ID_USED"


def sender_is_not_caller(why: str) -> ServiceError:
    """Return the refusal of an envelope that somebody else than its sender hands in."""
    return ServiceError(StatusCode.PERMISSION_DENIED, "SENDER_IS_NOT_CALLER", why)


def envelope_too_large(size: int, limit: int) -> ServiceError:
    """Return the refusal of an envelope that is too large; sizes in bytes."""
    message = f"the envelope has {size} bytes, at most {limit} are allowed"
    return ServiceError(StatusCode.INVALID_ARGUMENT, "ENVELOPE_TOO_LARGE", message, field="envelope", limit=str(limit))


def batch_too_large(field: str, what: str, limit: int) -> ServiceError:
    """Return the refusal of a batch with too much of something in a field."""
    message = f"the batch has {what}, at most {limit} are allowed"
    return ServiceError(StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE", message, field=field, limit=str(limit))


def header_mismatch(why: str, field: str) -> ServiceError:
    """Return the refusal of an envelope whose header and extension disagree in a field."""
    return ServiceError(StatusCode.INVALID_ARGUMENT, "HEADER_MISMATCH", why, field=field)


def session_stale(why: str, field: str) -> ServiceError:
    """Return the refusal of an envelope under a session that may no longer be sent under; another one is needed."""
    return ServiceError(StatusCode.FAILED_PRECONDITION, "SESSION_STALE", why, field=field)


def sealed_keys_mismatch(why: str) -> ServiceError:
    """Return the refusal of an envelope that is not sealed to exactly the good devices of its recipient."""
    field = "envelope.key_extension.sealed_keys"
    return ServiceError(StatusCode.INVALID_ARGUMENT, "SEALED_KEYS_MISMATCH", why, field=field)


def message_id_used() -> ServiceError:
    """Return the refusal of other bytes under a message id that this device has used."""
    message = "another envelope was stored under this message_id"
    return ServiceError(StatusCode.ALREADY_EXISTS, MESSAGE_ID_USED, message)


def mailbox_full(addresses: Iterable[Address]) -> ServiceError:
    """Return the refusal of an envelope for which a device of the recipient has no room."""
    return _no_room("MAILBOX_FULL", "the mailbox of a device is full", addresses)


def sender_share_full(addresses: Iterable[Address]) -> ServiceError:
    """Return the refusal of an envelope whose sending user takes up his share of a mailbox; others still have room."""
    return _no_room("SENDER_SHARE_FULL", "too many envelopes of this user wait in the mailbox of a device", addresses)


def _no_room(reason: str, message: str, addresses: Iterable[Address]) -> ServiceError:
    devices = ", ".join(address.device_id for address in addresses)
    return ServiceError(
        StatusCode.RESOURCE_EXHAUSTED,
        reason,
        f"{message}: {devices}",
        retry_after_ms=60 * SOON_MS,
        device_ids=devices[:1000],
    )


def revision_unknown(username: str, revision: int) -> ServiceError:
    """Return the refusal of a revision that the CA does not confirm yet."""
    message = f"revision {revision} of {username} is not known here yet"
    return ServiceError(StatusCode.UNAVAILABLE, "REVISION_UNKNOWN", message, retry_after_ms=SOON_MS, username=username)


def directory_unavailable() -> ServiceError:
    """Return the failure to look keys up."""
    message = "the directory does not answer, or not with what can be relied upon"
    return ServiceError(StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE", message, retry_after_ms=SOON_MS)


def mailboxes_unavailable(error: MailboxesUnavailableError) -> ServiceError:
    """Return the failure of the mailboxes: they cannot be reached, or they have no memory for anything more."""
    if isinstance(error, MailboxesOutOfMemoryError):
        message = "the mailboxes take nothing in, for they are out of memory: try again later"
        return ServiceError(StatusCode.UNAVAILABLE, "MAILBOXES_OUT_OF_MEMORY", message, retry_after_ms=5 * SOON_MS)
    message = "the mailboxes cannot be reached: try again"
    return ServiceError(StatusCode.UNAVAILABLE, "MAILBOXES_UNAVAILABLE", message, retry_after_ms=SOON_MS)


def receiver_displaced() -> ServiceError:
    """Return the end of a stream whose device opened another one."""
    return ServiceError(StatusCode.ABORTED, "RECEIVER_DISPLACED", "this device opened another stream")


def start_missing() -> ServiceError:
    """Return the end of a stream whose device did not say ``start`` in time."""
    return ServiceError(
        StatusCode.DEADLINE_EXCEEDED, "START_MISSING", "the stream's first message, start, did not come"
    )
