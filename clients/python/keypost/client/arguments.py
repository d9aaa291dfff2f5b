"""What an application may pass to a client. All of it is checked before anything is stored, sent or asked.

Each function raises InvalidArgumentError, whose ``metadata["field"]`` is the name of the argument.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any, get_args

from keypost.client.context import IdentityChange
from keypost.client.results import OCTETS, TEXT, Received, RevocationReason
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError
from keypost.keystore.unlock import Passphrase
from keypost.protocol.extension import FINGERPRINT_BYTES
from keypost.protocol.safety_numbers import MOST_CODE_CHARACTERS
from keypost.protocol.suites import Suite

LARGEST_BODY = 224 * 1024
"""Bytes; leaves room in an envelope for padding and for sealed keys."""
FILE_ID_BYTES = 16
CODE_LETTERS = 26
LARGEST_ID_TOKEN = 8 * 1024
"""Characters."""
_SIGNED_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MEDIA_TYPE = re.compile(r"[\x20-\x7e]{1,255}")


def read_message(body: Any, media_type: Any) -> envelope_pb2.Message:
    """Return a message of a text or bytes, of at most 224 KiB, and its media type or that of its kind."""
    data, default = (_encode(body), TEXT) if isinstance(body, str) else (_bytes(body, "body"), OCTETS)
    if len(data) > LARGEST_BODY:
        raise InvalidArgumentError(f"a message has at most {LARGEST_BODY // 1024} KiB: send it as a file", field="body")
    return envelope_pb2.Message(media_type=default if media_type is None else read_media_type(media_type), body=data)


def read_media_type(media_type: Any) -> str:
    """Return a media type: 1 to 255 printable characters of ASCII."""
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidArgumentError("a media type is 1 to 255 printable characters of ASCII", field="media_type")
    return media_type


def read_path(path: Any, field: str = "path") -> Path:
    """Return a path, from a text or a path."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise InvalidArgumentError("this is no path", field=field)
    return Path(text)


def check_unlock(unlock: Any) -> None:
    """Accept what unlocks a key store."""
    if not callable(getattr(unlock, "prepare", None)):
        raise InvalidArgumentError(
            "this unlocks no profile: pass keypost.Passphrase(...) or another one", field="unlock"
        )


def check_passphrase(passphrase: Any) -> Passphrase:
    """Return a passphrase that is not empty."""
    if not isinstance(passphrase, Passphrase):
        raise InvalidArgumentError("a backup is sealed by a keypost.Passphrase(...)", field="passphrase")
    if not passphrase.passphrase:
        raise InvalidArgumentError("an empty passphrase protects nothing; choose one", field="passphrase")
    return passphrase


def check_code(code: Any) -> None:
    """Accept a one-time code, or None where there is none."""
    if code is None:
        return
    text = code.replace("-", "").replace(" ", "") if isinstance(code, str) else ""
    if len(text) != CODE_LETTERS or not text.isascii() or not text.isalnum():
        sentence = f"a one-time code is {CODE_LETTERS} letters and digits, and this is not: type it as it was given out"
        raise InvalidArgumentError(sentence, field="code")


def check_id_token(id_token: Any, code: Any) -> None:
    """Accept an ID token, or None where there is none; one proof is enough."""
    if id_token is None:
        return
    if not isinstance(id_token, str) or len(id_token) > LARGEST_ID_TOKEN or not _SIGNED_TOKEN.fullmatch(id_token):
        sentence = f"an ID token is three parts of letters, digits, - and _, at most {LARGEST_ID_TOKEN} characters"
        raise InvalidArgumentError(sentence, field="id_token")
    if code is not None:
        raise InvalidArgumentError("sign in by a code or by an ID token, not by both", field="id_token")


def nonce_of(id_token: str) -> str | None:
    """Return the nonce of an ID token, unverified: the CA verifies it."""
    payload = id_token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return None
    nonce = claims.get("nonce") if isinstance(claims, dict) else None
    return nonce if isinstance(nonce, str) else None


def check_suite(suite: Any, field: str = "suite") -> None:
    """Accept one of the suites."""
    if not isinstance(suite, Suite):
        raise InvalidArgumentError("a suite is keypost.STRONG or keypost.WEAK", field=field)


def check_identity_change(mode: Any) -> None:
    """Accept one of the ways to meet a changed identity."""
    if mode not in get_args(IdentityChange):
        raise InvalidArgumentError("a changed identity is met by 'block' or 'warn'", field="on_identity_change")


def check_root(root: Any) -> bytes:
    """Return a fingerprint."""
    if len(data := _bytes(root, "root")) != FINGERPRINT_BYTES:
        raise InvalidArgumentError(f"a fingerprint has {FINGERPRINT_BYTES} bytes", field="root")
    return data


def read_compared(compared: Any) -> str:
    """Return digits or a code of a safety number: text that is not longer than any code."""
    if not isinstance(compared, str) or len(compared) > MOST_CODE_CHARACTERS:
        raise InvalidArgumentError("what was compared is 60 digits, or the text of a code", field="compared")
    # Neither digits nor a code have white space that means anything: both are read from screens and pasted.
    return "".join(compared.split())


def read_reason(reason: Any) -> RevocationReason:
    """Return why a device is revoked, from a RevocationReason or its word."""
    try:
        return RevocationReason(reason)
    except ValueError as error:
        words = ", ".join(RevocationReason)
        raise InvalidArgumentError(f"a device is revoked for one of these reasons: {words}", field="reason") from error


def check_file_id(file_id: Any) -> bytes:
    """Return the id of a file."""
    if len(data := _bytes(file_id, "file_id")) != FILE_ID_BYTES:
        raise InvalidArgumentError(f"the id of a file has {FILE_ID_BYTES} bytes", field="file_id")
    return data


def check_limit(limit: Any) -> None:
    """Accept how many at most: a number from 1."""
    if not isinstance(limit, int) or limit < 1:
        raise InvalidArgumentError("a limit is a number from 1", field="limit")


def check_received(message: Any) -> None:
    """Accept what ``receive`` yielded."""
    if not isinstance(message, Received):
        raise InvalidArgumentError("this is no message that receive() yielded", field="message")


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            "the text has half a character (a surrogate) and is no Unicode", field="body"
        ) from error


def _bytes(value: Any, field: str) -> bytes:
    # bytes(5) would be five zeros, and bytes([1]) one byte.
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"{field} is bytes", field=field)
    return bytes(value)
