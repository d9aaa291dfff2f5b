"""A pool of RSA keys for tests: generating them anew would take most of a run's time.

``python tests/support/keys.py`` wrote ``key_pool.json``; the keys in it are public and protect nothing.
"""

from __future__ import annotations

import base64
import itertools
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateNumbers, RSAPublicNumbers

from keypost.protocol import rsa
from keypost.protocol.suites import STRONG, SUITES, Suite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

POOL = Path(__file__).with_name("key_pool.json")
SIZES = {"RSA3072_AES256": 16, "RSA1024_AES128": 10}


@cache
def pooled_key(suite: Suite, index: int) -> RSAPrivateKey:
    """Return the key of the pool with this index."""
    pool: list[str] = json.loads(POOL.read_text())[suite.name]
    return rsa.private_key_from_der(base64.b64decode(pool[index]))


class KeyPool:
    """Hands out the pool's keys one after the other; raises IndexError when a test wants more than there are."""

    def __init__(self) -> None:
        self._next = {suite: itertools.count() for suite in SUITES}

    def __call__(self, suite: Suite = STRONG) -> RSAPrivateKey:
        return pooled_key(suite, next(self._next[suite]))


def crossed_keys(suite: Suite, more: int = 0) -> Iterator[RSAPrivateKey]:
    """Yield hundreds of different keys: any two primes of the pool, and of ``more`` keys, make one in no time."""
    primes: list[int] = []
    # Known to be sound: validating each again would take longer than all that is done with them.
    pool = (
        rsa.unsealed_private_key_from_der(base64.b64decode(der)) for der in json.loads(POOL.read_text())[suite.name]
    )
    for key in itertools.chain(pool, (suite.generate_private_key() for _ in range(more))):
        numbers = key.private_numbers()
        for prime in (numbers.p, numbers.q):
            yield from (_key_of(earlier, prime) for earlier in primes)
            primes.append(prime)


def _key_of(p: int, q: int) -> RSAPrivateKey:
    exponent = 65537
    d = pow(exponent, -1, (p - 1) * (q - 1))
    numbers = RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), RSAPublicNumbers(exponent, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def write_pool() -> None:
    pool = {
        suite.name: [
            base64.b64encode(rsa.private_key_to_der(suite.generate_private_key())).decode()
            for _ in range(SIZES[suite.name])
        ]
        for suite in SUITES
    }
    POOL.write_text(json.dumps(pool, indent=1) + "\n")


if __name__ == "__main__":
    write_pool()
