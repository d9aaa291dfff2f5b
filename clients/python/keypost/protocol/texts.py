"""Bytes as text that people carry from one device to another (docs/spec.md, "Invitations and requests").

Base32 in capital letters: a QR code needs least room for it, and it survives line breaks, small letters and being read
out. Length and checksum tell what went wrong on the way; they prove nothing.
"""

from __future__ import annotations

import base64
import re
from enum import StrEnum

from keypost.errors import InvalidArgumentError
from keypost.protocol.encoding import sha256

VERSION = 1
MOST_BYTES = 8 * 1024
"""Of what a text carries: the largest signed key request."""
MOST_CHARACTERS = 16 * 1024
"""Of a text as it is pasted, white space included."""
LENGTH_BYTES, CHECKSUM_BYTES = 2, 4
LENGTH_LETTERS = 4
"""The first letters, which hold the length."""
_BEGINNING = re.compile(r"KEYPOST-([A-Z]+)-(\d{1,4}):", re.ASCII)
_LETTERS = re.compile(r"[A-Z2-7]*", re.ASCII)


class TextKind(StrEnum):
    """What a text carries; the value is its name for people, and the name of the argument that takes it."""

    INVITATION = "invitation"
    REQUEST = "request"

    @property
    def beginning(self) -> str:
        """How a text of this kind begins."""
        return f"KEYPOST-{self.name}-{VERSION}:"


def to_text(kind: TextKind, data: bytes) -> str:
    """Return ``data`` (at most 8 KiB) as text; nothing else stands for it."""
    framed = len(data).to_bytes(LENGTH_BYTES, "big") + data
    return kind.beginning + _encode(framed + _checksum(kind, framed))


def from_text(kind: TextKind, text: str) -> bytes:
    """Return what a text carries; white space within and small letters do no harm.

    Raises:
        InvalidArgumentError: it is of another kind or version, cut, too long, or mistyped; the sentence says which.
    """
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise _refused(kind, f"is no text of at most {MOST_CHARACTERS} characters")
    letters = _letters(kind, "".join(text.split()).upper())
    _check_whole(kind, letters)
    decoded = base64.b32decode(letters + "=" * (-len(letters) % 8))
    framed, checksum = decoded[:-CHECKSUM_BYTES], decoded[-CHECKSUM_BYTES:]
    if checksum != _checksum(kind, framed) or _encode(decoded) != letters:
        raise _refused(kind, "was mistyped: its checksum is wrong; copy it again")
    return framed[LENGTH_BYTES:]


def _letters(kind: TextKind, text: str) -> str:
    """Return what stands behind the beginning."""
    found = _BEGINNING.match(text)
    if found is None:
        raise _refused(kind, f"does not begin with {kind.beginning} as it must; copy all of it")
    if found[1] != kind.name:
        raise _refused(kind, f"is something else: it says that it is of kind {found[1].lower()}")
    if found[0] != kind.beginning:
        raise _refused(kind, f"is of version {found[2]}, which this program does not know: update it")
    letters = text[found.end() :]
    wrong = _LETTERS.match(letters)
    at = 0 if wrong is None else wrong.end()
    if at < len(letters):
        raise _refused(kind, f"was mistyped: character {found.end() + at + 1} is none of A-Z 2-7; copy it again")
    return letters


def _check_whole(kind: TextKind, letters: str) -> None:
    if len(letters) < LENGTH_LETTERS:
        raise _refused(kind, "was cut: copy all of it")
    head = base64.b32decode(letters[:LENGTH_LETTERS] + "A===")
    length = int.from_bytes(head[:LENGTH_BYTES], "big")
    if length > MOST_BYTES:
        raise _refused(kind, "was mistyped: its length cannot be; copy it again")
    wanted = -((LENGTH_BYTES + length + CHECKSUM_BYTES) * 8 // -5)
    if len(letters) < wanted:
        raise _refused(kind, f"was cut: {wanted - len(letters)} of {wanted} characters are missing; copy all of it")
    if len(letters) > wanted:
        raise _refused(kind, f"ends after {wanted} characters, and {len(letters) - wanted} more follow: copy it alone")


def _encode(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")


def _checksum(kind: TextKind, framed: bytes) -> bytes:
    return sha256(kind.beginning.encode() + framed)[:CHECKSUM_BYTES]


def _refused(kind: TextKind, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the {kind.value} {why}", field=kind.value)
