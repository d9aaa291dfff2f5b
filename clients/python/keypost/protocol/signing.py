"""Root and record keys: Ed25519 behind a port, so that a key management service can take the place of a file."""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keypost.protocol.encoding import fingerprint, pae
from keypost.protocol.errors import KeyRefusedError, SignatureInvalidError


class Signer(Protocol):
    """Signs with one Ed25519 key, wherever that key is."""

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo of the key in DER."""

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of ``data``: 64 bytes."""


class Ed25519Signer:
    """Signs with a private key held in memory."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._public_key_der = private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def __repr__(self) -> str:
        return f"Ed25519Signer({self.fingerprint.hex()[:8]})"

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo of the key in DER."""
        return self._public_key_der

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: 32 bytes."""
        return fingerprint(self._public_key_der)

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of ``data``: 64 bytes."""
        return self._private_key.sign(data)


def sign_statement(signer: Signer, label: bytes, statement: bytes) -> bytes:
    """Return the signature over PAE(label, statement): 64 bytes."""
    return signer.sign(pae(label, statement))


def verify_statement(public_key_der: bytes, label: bytes, statement: bytes, signature: bytes) -> None:
    """Verify what :func:`sign_statement` signed.

    Raises:
        SignatureInvalidError: the signature is not this key's over this statement under this label.
        KeyRefusedError: ``public_key_der`` is no Ed25519 key.
    """
    public_key = load_public_key(public_key_der)
    try:
        public_key.verify(signature, pae(label, statement))
    except InvalidSignature as error:
        raise SignatureInvalidError("the signature does not match the key") from error


def load_public_key(public_key_der: bytes) -> Ed25519PublicKey:
    """Return the Ed25519 key in ``public_key_der`` (SubjectPublicKeyInfo, DER).

    Raises:
        KeyRefusedError: it is none.
    """
    try:
        public_key = serialization.load_der_public_key(public_key_der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefusedError("these bytes are no public key") from error
    if not isinstance(public_key, Ed25519PublicKey):
        raise KeyRefusedError("the key is not Ed25519")
    return public_key
