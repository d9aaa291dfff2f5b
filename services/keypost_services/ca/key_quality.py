"""Keys that anybody can break: the CA records none (docs/spec.md, "Keys over time").

Size, exponent and encoding are the suite's business (``Suite.load_public_key``), and that a key was never recorded
before the store's. What is left is known of broken generators and of keys whose private half was published.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from badkeys.checks import checkrsa

from keypost_services.ca import errors
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from keypost.protocol.key_requests import KeyRequest

WEAKNESSES = {
    "smallfactors": "SMALL_FACTOR",
    "roca": "ROCA",
    "fermat": "CLOSE_PRIMES",
}
"""What badkeys calls a weakness, and what Keypost does."""
BLOCKED = "BLOCKED"
_FINGERPRINT = re.compile(r"[0-9a-fA-F]{64}")
MOST_BLOCKED_BYTES = 256 * 1024 * 1024


class KeyQuality:
    """Refuses public keys that protect nothing.

    Args:
        blocked: Fingerprints of keys that are known to somebody else, 32 bytes each.
    """

    def __init__(self, blocked: Iterable[bytes] = ()) -> None:
        self._blocked = frozenset(blocked)

    def check(self, request: KeyRequest) -> None:
        """Check that nobody is known to be able to have the private half of a key (less than 1 ms).

        Raises:
            ServiceError: KEY_WEAK; its metadata ``weakness`` is one of ``WEAKNESSES``, or BLOCKED.
        """
        if request.fingerprint in self._blocked:
            raise errors.key_weak(BLOCKED)
        numbers = request.public_key.public_numbers()
        for found in checkrsa(numbers.n, numbers.e, checks=WEAKNESSES):
            raise errors.key_weak(WEAKNESSES[found])


def load_blocked_keys(file: Path | None) -> frozenset[bytes]:
    """Return the fingerprints in a block list: one a line, 64 hexadecimal digits; behind # is for people.

    Raises:
        StartError: The file cannot be read, or a line is none; the line is named.
    """
    if file is None:
        return frozenset()
    try:
        if file.stat().st_size > MOST_BLOCKED_BYTES:
            raise StartError(f"KEYPOST_CA_BLOCKED_KEYS: {file} has more than {MOST_BLOCKED_BYTES} bytes")
        with file.open(encoding="utf-8") as lines:
            return frozenset(_fingerprints(file, lines))
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"KEYPOST_CA_BLOCKED_KEYS: cannot read {file}") from error


def _fingerprints(file: Path, lines: Iterable[str]) -> Iterator[bytes]:
    for number, line in enumerate(lines, start=1):
        if digits := line.partition("#")[0].strip():
            yield _fingerprint(file, number, digits)


def _fingerprint(file: Path, number: int, digits: str) -> bytes:
    if _FINGERPRINT.fullmatch(digits) is None:
        raise StartError(f"KEYPOST_CA_BLOCKED_KEYS: {file}, line {number} is no fingerprint of 64 hexadecimal digits")
    return bytes.fromhex(digits)
