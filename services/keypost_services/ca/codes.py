"""One-time codes: 128 bits in Crockford's base32, of which the CA keeps a hash alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.protocol.encoding import pae, sha256
from keypost_services.ca.store import OneTimeCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26
_ID_DIGITS = 16
_CODE_BYTES = 16
_LONGEST_TEXT = 64
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
_HASH_LABEL = b"keypost/ca/one-time-code"
_REALM_LABEL = b"keypost/ca/realm"


class CodeMalformedError(ValueError):
    """A text that no one-time code can be."""


@dataclass(frozen=True)
class MadeCode:
    """A new one-time code, shown once.

    Attributes:
        code: 26 characters.
        code_id: By what it is named to people (see ``id_of``).
        username: The only user that it enrols.
        expire_time: Unix milliseconds.
    """

    code: str = field(repr=False)
    code_id: str
    username: str
    expire_time: int


def draw_code(
    random: Callable[[int], bytes], username: str, expire_time: int, realm: bytes
) -> tuple[MadeCode, OneTimeCode]:
    """Return a new one-time code, and what the CA keeps of it.

    Args:
        random: Returns that many random bytes.
        username: The only user that it enrols.
        expire_time: Unix milliseconds.
        realm: As for ``hash_code``.
    """
    code = new_code(random)
    kept = OneTimeCode(hash_code(code, username, realm), username, expire_time)
    return MadeCode(code, id_of(kept.code_hash), username, expire_time), kept


def new_code(random: Callable[[int], bytes]) -> str:
    """Return a new code: 26 characters, 128 random bits."""
    number = int.from_bytes(random(_CODE_BYTES), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))


def read_code(text: str) -> str:
    """Return the code in its one form: capitals, without dashes or spaces, mistaken letters read as digits.

    Raises:
        CodeMalformedError: The text is no code.
    """
    code = text.upper().translate(_READ_AS) if text.isascii() and len(text) <= _LONGEST_TEXT else ""
    # 26 characters have two bits more than a code.
    if len(code) != _LENGTH or not set(code) <= set(_ALPHABET) or code[0] not in _ALPHABET[:8]:
        raise CodeMalformedError(f"a one-time code is {_LENGTH} characters of Crockford's base32, and few dashes")
    return code


def id_of(code_hash: bytes) -> str:
    """Return by what a code is named to people: the first 16 hexadecimal digits of its hash."""
    return code_hash.hex()[:_ID_DIGITS]


def realm_hash(realm: str, root_keys_der: Sequence[bytes]) -> bytes:
    """Return what binds a code to the realm and its root keys: 32 bytes."""
    return sha256(pae(_REALM_LABEL, realm.encode(), *sorted(root_keys_der)))


def hash_code(code: str, username: str, realm: bytes) -> bytes:
    """Return what is kept of a code: 32 bytes that bind it to the username and to `realm` (see ``realm_hash``).

    A plain hash suffices: 128 random bits cannot be guessed, however fast the guessing.
    """
    return sha256(pae(_HASH_LABEL, realm, username.encode(), code.encode()))
