"""Nonces that the CA can recognise without having kept them (docs/spec.md, "Begin")."""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import TYPE_CHECKING

from keypost.clock import MINUTE
from keypost.protocol.encoding import int_bytes, pae
from keypost_services.ca import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.identifiers import Address

LIFETIME = 10 * MINUTE
SECRET_BYTES = 32
_RANDOM_BYTES = 16
_TIME_BYTES = 8
_SIZE = _RANDOM_BYTES + _TIME_BYTES + hashlib.sha256().digest_size


class Purpose(Enum):
    """What a nonce was given out for."""

    ENROLLMENT = b"keypost/ca/nonce/enrollment"
    RENEWAL = b"keypost/ca/nonce/renewal"
    APPROVAL = b"keypost/ca/nonce/approval"


class Nonces:
    """Gives out nonces and recognises its own.

    A nonce is 16 random bytes, its expiry (8 bytes, big-endian) and an HMAC-SHA256 over these, the purpose and the
    address that it was given out for: nobody can use it for another name, and nothing is stored before a key is.
    """

    def __init__(self, secret: bytes, random: Callable[[int], bytes]) -> None:
        """Take the secret that all CA processes share.

        Args:
            secret: 32 bytes.
            random: Returns that many random bytes.
        """
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret of the nonces has {SECRET_BYTES} bytes")
        self._secret = secret
        self._random = random

    def issue(self, purpose: Purpose, address: Address, now: int) -> bytes:
        """Return a nonce of 56 bytes, valid for 10 minutes."""
        head = self._random(_RANDOM_BYTES) + int_bytes(now + LIFETIME)
        return head + self._mac(head, purpose, address)

    def check(self, nonce: bytes, purpose: Purpose, address: Address, now: int) -> None:
        """Accept a nonce that was given out for this.

        Raises:
            ServiceError: NONCE_EXPIRED; also for what was never a nonce, since beginning anew helps there too.
        """
        head, mac = nonce[: _RANDOM_BYTES + _TIME_BYTES], nonce[_RANDOM_BYTES + _TIME_BYTES :]
        if len(nonce) != _SIZE or not hmac.compare_digest(mac, self._mac(head, purpose, address)):
            raise errors.nonce_expired()
        _check_unexpired(head, now)

    def _mac(self, head: bytes, purpose: Purpose, address: Address) -> bytes:
        signed = pae(purpose.value, head, address.username.encode(), address.device_id.encode())
        return hmac.digest(self._secret, signed, "sha256")


def _check_unexpired(head: bytes, now: int) -> None:
    if now >= int.from_bytes(head[_RANDOM_BYTES:], "big"):
        raise errors.nonce_expired()
