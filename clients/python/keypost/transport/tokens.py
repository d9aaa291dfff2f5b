"""Tokens by which a device shows who it is (docs/spec.md, "Tokens"): minted, cached, replaced in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keypost.clock import MINUTE, Clock
from keypost.protocol.tokens import audience_of

if TYPE_CHECKING:
    from collections.abc import Callable

LIFETIME = 10 * MINUTE
_RENEW_BEFORE = MINUTE
Metadata = tuple[tuple[str, str], ...]


class TokenSigner(Protocol):
    """The device's current key, as far as tokens need it."""

    @property
    def fingerprint(self) -> bytes:
        """The key's fingerprint (32 bytes): a token lives no longer than the key is current."""
        ...

    def mint(self, audience: str, now: int, lifetime_ms: int) -> str:
        """Return a new token for one service."""
        ...


@dataclass(frozen=True)
class _Cached:
    token: str = field(repr=False)
    fingerprint: bytes
    end: int


class TokenSource:
    """Hands out tokens of the device, one an audience, re-minted before their end and after a renewal.

    Args:
        realm: The realm; the audience is ``realm/service``.
        signer: Returns the current key.
        clock: The time.
    """

    def __init__(self, realm: str, signer: Callable[[], TokenSigner], clock: Clock) -> None:
        self._realm = realm
        self._signer = signer
        self._clock = clock
        self._cached: dict[str, _Cached] = {}

    def __repr__(self) -> str:
        return f"TokenSource(realm={self._realm!r})"

    def token(self, service: str) -> str:
        """Return a token for ``service`` that is good for a minute at least."""
        signer, now = self._signer(), self._clock()
        cached = self._cached.get(service)
        if cached is None or cached.fingerprint != signer.fingerprint or not self._is_fresh(cached, now):
            token = signer.mint(audience_of(self._realm, service), now, LIFETIME)
            cached = self._cached[service] = _Cached(token, signer.fingerprint, now + LIFETIME)
        return cached.token

    def metadata(self, service: str) -> Metadata:
        """Return the call metadata that carries the token."""
        return (("authorization", f"Bearer {self.token(service)}"),)

    def forget(self) -> None:
        """Drop every cached token (a service refused one, or the client closes)."""
        self._cached.clear()

    @staticmethod
    def _is_fresh(cached: _Cached, now: int) -> bool:
        # A clock that was set back must not make a token live longer than it was minted for.
        return cached.end - LIFETIME <= now < cached.end - _RENEW_BEFORE
