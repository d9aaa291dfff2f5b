"""How a gateway knows that a wake-up is from here: the headers of Standard Webhooks 1.0."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from keypost.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
MOST_SECRETS = 4


def read_secrets(text: str) -> Sequence[bytes]:
    """Return the secrets of a file: one a line, ``whsec_`` and 24 to 64 bytes in base64; ``#`` begins a comment.

    There may be several while one replaces another: a wake-up is signed by each.

    Raises:
        ValueError: There is none, there are too many, or a line is none; it is named by its number, never shown.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    secrets = [_read(number, line) for number, line in lines if line and not line.startswith("#")]
    if not 1 <= len(secrets) <= MOST_SECRETS:
        raise ValueError(f"must have 1 to {MOST_SECRETS} secrets, one a line")
    return secrets


def _read(number: int, line: str) -> bytes:
    try:
        secret = base64.b64decode(line.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not line.startswith(PREFIX) or len(secret) not in SECRET_BYTES:
        # Without a cause: it would have the line in it.
        raise ValueError(f"line {number} is no secret: {PREFIX} and 24 to 64 bytes in base64") from None
    return secret


def signed_headers(secrets: Sequence[bytes], message_id: str, time: int, body: bytes) -> dict[str, str]:
    """Return the headers by which the gateway verifies a body.

    Args:
        secrets: With which to sign.
        message_id: The same for every attempt at one wake-up.
        time: Of this attempt, Unix milliseconds; the gateway refuses what is old.
        body: What is sent.
    """
    timestamp = str(time // SECOND)
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{_sign(secret, signed)}" for secret in secrets),
    }


def _sign(secret: bytes, signed: bytes) -> str:
    mac = HMAC(secret, SHA256())
    mac.update(signed)
    return base64.b64encode(mac.finalize()).decode()
