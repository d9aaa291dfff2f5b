"""Checks of the vector file about texts that people carry."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import TYPE_CHECKING

from vectors.verifier.primitives import RefusedError, same

if TYPE_CHECKING:
    from vectors.verifier.statements import Case, Shared


def texts(case: Case, _: Shared) -> None:
    """Check a case of texts.json."""
    if "text" in case:
        same("text", case["text"], _written(case["kind"], bytes.fromhex(case["message"])))
        return
    text = "".join(case["read"].split()).upper()
    beginning, _colon, letters = text.partition(":")
    if beginning != f"KEYPOST-{case['kind'].upper()}-1":
        raise RefusedError("MALFORMED_STATEMENT")
    try:
        decoded = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError as error:
        raise RefusedError("MALFORMED_STATEMENT") from error
    message = decoded[2:-4]
    if _written(case["kind"], message) != text:
        raise RefusedError("MALFORMED_STATEMENT")
    same("message", case["message"], message.hex())


def _written(kind: str, message: bytes) -> str:
    beginning = f"KEYPOST-{kind.upper()}-1:"
    framed = struct.pack(">H", len(message)) + message
    checksum = hashlib.sha256(beginning.encode() + framed).digest()[:4]
    return beginning + base64.b32encode(framed + checksum).decode().rstrip("=")
