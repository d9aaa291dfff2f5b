"""Who signs records: one Ed25519 key behind a port, wherever that key is.

A file's key signs in this process (``LocalSigner``). A key management service is one more class with the same two
members, and one more line in ``realm_files.load_signers``; ``tests/contract/ca/test_signer.py`` says what it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keypost.protocol.signing import Signer


class SignerAwayError(Exception):
    """The key cannot sign now: whoever holds it does not answer, or refuses."""


class RecordSigner(Protocol):
    """Signs with one Ed25519 key; may wait for somebody else to do it."""

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo of the key in DER."""
        ...

    async def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of ``data``: 64 bytes. May be called many times at once.

        Raises:
            SignerAwayError: it cannot be had now; a later call may.
        """
        ...


class LocalSigner:
    """Signs with a key in this process: 0.05 ms, so that nobody waits."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def __repr__(self) -> str:
        return f"LocalSigner({self._signer!r})"

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo of the key in DER."""
        return self._signer.public_key_der

    async def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of ``data``: 64 bytes."""
        return self._signer.sign(data)
