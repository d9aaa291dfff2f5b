"""How bytes are put together before they are signed, hashed or authenticated (docs/spec.md, "Encoding")."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from cryptography.hazmat.primitives import hashes
from google.protobuf.message import DecodeError, Message

from keypost.errors import InvalidArgumentError
from keypost.protocol.errors import MalformedStatementError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

REALM_TRUST = b"keypost/v1/realm-trust"
USER_KEYS = b"keypost/v1/user-keys"
KEY_REQUEST = b"keypost/v1/key-request"
ENDORSEMENT = b"keypost/v1/endorsement"
REVOCATION = b"keypost/v1/revocation"
RESET_CANCELLATION = b"keypost/v1/reset-cancellation"
EXTENSION = b"keypost/v1/extension"
KEY_ID = b"keypost/v1/key-id"
MESSAGE = b"keypost/v1/message"
MESSAGE_KEY = b"keypost/v1/message-key"
SAFETY_NUMBER = b"keypost/v1/safety-number"

LARGEST_NUMBER = 2**63 - 1
"""Above it no counter, revision or time is kept: databases hold 64 bits with a sign."""

M = TypeVar("M", bound=Message)
P = TypeVar("P")
R = TypeVar("R")


def int_bytes(number: int) -> bytes:
    """Return ``number`` as 8 bytes, big-endian.

    Raises:
        OverflowError: the number is negative or does not fit.
    """
    return number.to_bytes(8, "big")


def pae(*pieces: bytes) -> bytes:
    """Return the pre-authentication encoding of ``pieces``, which no other pieces share.

    The number of pieces, then each piece behind its length; numbers are 8 bytes, big-endian (in PASETO, little-endian).
    """
    return b"".join([int_bytes(len(pieces)), *(int_bytes(len(piece)) + piece for piece in pieces)])


def sha256(data: bytes) -> bytes:
    """Return the SHA-256 of ``data``: 32 bytes."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def sha1(data: bytes) -> bytes:
    """Return the SHA-1 of ``data``: 20 bytes. For the source document's renewal alone."""
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303  # the weak suite is this to the letter, and off by default
    digest.update(data)
    return digest.finalize()


def fingerprint(public_key_der: bytes) -> bytes:
    """Return the name of a public key: SHA-256 of its SubjectPublicKeyInfo in DER, 32 bytes."""
    return sha256(public_key_der)


def parse(kind: Callable[[], M], statement: bytes, what: str) -> M:
    """Parse a serialised message.

    Raises:
        MalformedStatementError: the bytes are no such message; ``what`` names it to the reader.
    """
    message = kind()
    try:
        message.ParseFromString(statement)
    except DecodeError as error:
        raise MalformedStatementError(f"these bytes are no {what}") from error
    return message


def named(field: str, read: Callable[[P], R], part: P) -> R:
    """Return ``read(part)``; what is wrong there names ``field``, and behind a dot the field within it.

    Raises:
        MalformedStatementError: as ``read``, or it raised InvalidArgumentError.
        ProtocolError: as ``read``.
    """
    try:
        return read(part)
    except InvalidArgumentError as error:
        raise MalformedStatementError(f"{field}: {error}", field=field) from error
    except ProtocolError as error:
        inner = error.metadata.get("field")
        error.metadata["field"] = f"{field}.{inner}" if inner else field
        raise


def check_number(number: int) -> int:
    """Return ``number`` if it can be a counter, a revision or a time.

    Raises:
        MalformedStatementError: it is not from 1 to 2^63 - 1.
    """
    if not 1 <= number <= LARGEST_NUMBER:
        raise MalformedStatementError("counters, revisions and times are positive and below 2^63")
    return number
