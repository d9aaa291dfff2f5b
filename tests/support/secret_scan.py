"""Secrets and the search for them: every piece of fifteen bytes of a secret, in every form it may be written in.

A place is searched for whatever could come of a secret: as it is, in digits, in base64 at any alignment, escaped in the
ways of JSON, Python, protobuf and addresses, or cut in pieces. What is found is named by its kind, never shown.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from google.protobuf import text_encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

PIECE = 15
"""Bytes of a secret that give it away: a shorter piece is none. It holds an aligned word of eight bytes anywhere."""
WORD = 8


def encodings(secret: bytes) -> dict[str, bytes]:
    """Return every form of a secret, by name."""
    latin = secret.decode("latin-1")
    forms = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "he:x": secret.hex(":").encode(),
        "he:X": secret.hex(":").upper().encode(),
        "python": repr(secret)[2:-1].encode(),
        "numbers": ", ".join(map(str, secret)).encode(),
        "protobuf": text_encoding.CEscape(secret, False).encode(),  # noqa: FBT003  # the library's own signature
        "json": json.dumps(latin)[1:-1].encode(),
        "utf-8": latin.encode(),
        "percent": quote(secret, safe="").encode(),
        "utf-16": latin.encode("utf-16-le"),
    }
    for shift in range(3):
        # What stands before and after decides the first and last characters: they are left out.
        plain = base64.b64encode(bytes(shift) + secret)[-(-shift * 4 // 3) :].rstrip(b"=")[:-1]
        forms[f"base64+{shift}"] = plain
        forms[f"base64url+{shift}"] = plain.translate(bytes.maketrans(b"+/", b"-_"))
    if not secret.isascii():
        forms |= _of_text(secret)
    return forms


def _of_text(secret: bytes) -> dict[str, bytes]:
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return {}
    return {"json text": json.dumps(text)[1:-1].encode(), "utf-16 text": text.encode("utf-16-le")}


@dataclass(frozen=True)
class Secret:
    """Something that nobody may find, and where it is at home nevertheless.

    Attributes:
        kind: Such as ``session key``.
        value: The bytes.
        homes: Names of places (see ``Place``) that hold it on purpose; there it must be found.
    """

    kind: str
    value: bytes = field(repr=False)
    homes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """Somewhere a secret could have got to.

    Attributes:
        name: Where it is.
        content: What is there.
        marker: Something harmless that is there if it was read rightly.
    """

    name: str
    content: bytes = field(repr=False)
    marker: bytes = b""


@dataclass(frozen=True, order=True)
class Finding:
    """A secret that was found."""

    place: str
    kind: str
    form: str


@dataclass(frozen=True)
class _Needle:
    secret: Secret
    form: str
    text: bytes
    least: int


class Scanner:
    """Finds pieces of secrets.

    Args:
        secrets: What to look for, each of 16 bytes or more.
    """

    def __init__(self, secrets: Iterable[Secret]) -> None:
        self._words: dict[int, list[tuple[_Needle, int]]] = defaultdict(list)
        self.secrets = tuple(dict.fromkeys(secrets))
        for secret in self.secrets:
            if len(secret.value) <= PIECE:
                raise ValueError(f"a {secret.kind} of {len(secret.value)} bytes is too short to be told from chance")
            for form, text in encodings(secret.value).items():
                self._add(_Needle(secret, form, text, max(PIECE, math.ceil(len(text) * PIECE / len(secret.value)))))

    def _add(self, needle: _Needle) -> None:
        for offset in range(len(needle.text) - WORD + 1):
            word = int.from_bytes(needle.text[offset : offset + WORD], sys.byteorder)
            self._words[word].append((needle, offset))

    def find(self, place: Place) -> set[Finding]:
        """Return what is found in a place, at home or not."""
        return {_finding(place, needle) for needle in self._found(place)}

    def astray(self, places: Iterable[Place]) -> list[Finding]:
        """Return the secrets that are somewhere else than at home."""
        found = ((place, needle) for place in places for needle in self._found(place))
        return sorted({_finding(*one) for one in found if one[0].name not in one[1].secret.homes})

    def _found(self, place: Place) -> Iterator[_Needle]:
        content = place.content + bytes(-len(place.content) % WORD)
        words = memoryview(content).cast("Q")
        if not (suspects := self._words.keys() & set(words)):
            return
        for index, word in enumerate(words):
            if word not in suspects:
                continue
            for needle, offset in self._words[word]:
                if _run(content, index * WORD, needle.text, offset) >= needle.least:
                    yield needle


def _finding(place: Place, needle: _Needle) -> Finding:
    return Finding(place.name, needle.secret.kind, needle.form)


def _run(content: bytes, position: int, text: bytes, offset: int) -> int:
    """Return how many bytes agree around a word that agrees."""
    before = 0
    while before < min(position, offset) and content[position - before - 1] == text[offset - before - 1]:
        before += 1
    after, most = WORD, min(len(content) - position, len(text) - offset)
    while after < most and content[position + after] == text[offset + after]:
        after += 1
    return before + after


def of_rsa_key(kind: str, private_key: RSAPrivateKey, homes: frozenset[str] = frozenset()) -> Iterator[Secret]:
    """Yield the numbers of a private key in every byte order and in digits: DER and PEM are made of them."""
    numbers = private_key.private_numbers()
    for name in ("d", "p", "q", "dmp1", "dmq1", "iqmp"):
        number: int = getattr(numbers, name)
        size = (number.bit_length() + 7) // 8
        for value in (number.to_bytes(size, "big"), number.to_bytes(size, "little"), str(number).encode()):
            yield from of_content(kind, value, every=160, size=48, homes=homes)


def of_ec_key(kind: str, private_key: EllipticCurvePrivateKey, homes: frozenset[str]) -> Iterator[Secret]:
    """Yield the number of a private key."""
    number = private_key.private_numbers().private_value
    for order in ("big", "little"):
        yield Secret(kind, number.to_bytes(32, order), homes)
    yield Secret(kind, str(number).encode(), homes)


def of_token(token: str) -> Iterator[Secret]:
    """Yield what makes a token a secret: its signature. Whom it names, everybody may know."""
    signature = token.rpartition(".")[2]
    yield Secret("token", signature.encode())
    yield Secret("token", base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)))


def of_content(
    kind: str, content: bytes, every: int = 4096, size: int = 64, homes: frozenset[str] = frozenset()
) -> Iterator[Secret]:
    """Yield pieces of a long content, so that no part of it longer than ``every`` can hide."""
    for start in range(0, max(1, len(content) - size), every):
        yield Secret(kind, content[start : start + size], homes)


def files_below(folder: Path, markers: Callable[[Path], bytes], skip: Sequence[Path] = ()) -> Iterator[Place]:
    """Yield every file below a folder as a place named by its path in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(left) for left in skip):
            yield Place(path.relative_to(folder).as_posix(), path.read_bytes(), markers(path))


def unescaped(text: bytes) -> bytes:
    """Return what a server of Redis shows of commands, with its escapes undone."""
    return codecs.escape_decode(text)[0]
