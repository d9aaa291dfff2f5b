"""RSA keys that anybody can break, one of each kind that the CA must know (tests/support/bad_keys.json).

``python tests/support/bad_keys.py`` wrote them: real keys, each made the way in which broken generators made theirs.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import gmpy2
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys

from keypost.protocol import rsa
from keypost.protocol.suites import STRONG, WEAK, Suite

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

FILE = Path(__file__).with_name("bad_keys.json")
EXPONENT = 65537
ROCA_PRIMES = {1024: 71, 3072: 126}
"""How many first primes the broken library multiplied for keys of these sizes (Nemec et al., CCS 2017)."""


@cache
def bad_key(weakness: str, suite: Suite = STRONG) -> RSAPrivateKey:
    """Return the key with this weakness, as ``keypost_services.ca.key_quality`` names it."""
    return rsa.unsealed_private_key_from_der(base64.b64decode(json.loads(FILE.read_text())[suite.name][weakness]))


def _small_factor(bits: int) -> tuple[int, int]:
    return 65_521, _prime(bits - 16)


def _close_primes(bits: int) -> tuple[int, int]:
    # What a library does that looks for both primes from one random number on.
    first = _prime(bits // 2)
    return first, int(gmpy2.next_prime(first + (1 << 100)))


def _roca(bits: int) -> tuple[int, int]:
    primorial = math.prod(_first_primes(ROCA_PRIMES[bits]))
    return _roca_prime(bits // 2, primorial), _roca_prime(bits // 2, primorial)


def _roca_prime(bits: int, primorial: int) -> int:
    top = (3 << (bits - 2)) // primorial
    while True:
        multiple = top + secrets.randbelow(top // 4)
        prime = multiple * primorial + pow(EXPONENT, secrets.randbelow(primorial), primorial)
        if prime.bit_length() == bits and gmpy2.is_prime(prime):
            return prime


def _first_primes(count: int) -> list[int]:
    primes = [2]
    while len(primes) < count:
        primes.append(int(gmpy2.next_prime(primes[-1])))
    return primes


def _prime(bits: int) -> int:
    # The two highest bits are set, so that a product has the size that is wanted.
    return int(gmpy2.next_prime(secrets.randbits(bits - 2) | (3 << (bits - 2))))


def _private_key(bits: int, make: Callable[[int], tuple[int, int]]) -> RSAPrivateKey:
    while True:
        p, q = make(bits)
        if (p * q).bit_length() == bits and math.gcd((p - 1) * (q - 1), EXPONENT) == 1:
            break
    d = pow(EXPONENT, -1, math.lcm(p - 1, q - 1))
    numbers = rsa_keys.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa_keys.RSAPublicNumbers(EXPONENT, p * q)
    )
    return numbers.private_key()


KINDS: dict[str, Callable[[int], tuple[int, int]]] = {
    "SMALL_FACTOR": _small_factor,
    "CLOSE_PRIMES": _close_primes,
    "ROCA": _roca,
}


def write_keys() -> None:
    keys = {
        suite.name: {
            kind: base64.b64encode(rsa.private_key_to_der(_private_key(suite.key_bits, make))).decode()
            for kind, make in KINDS.items()
        }
        for suite in (STRONG, WEAK)
    }
    FILE.write_text(json.dumps(keys, indent=1) + "\n")


if __name__ == "__main__":
    write_keys()
