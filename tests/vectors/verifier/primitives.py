"""The algorithms of docs/spec.md, written a second time from that page: nothing of ``keypost.protocol`` is used."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

STRONG, WEAK = "RSA3072_AES256", "RSA1024_AES128"
SUITE_NAMES = {1: WEAK, 2: STRONG}
MODULUS_BITS = {STRONG: 3072, WEAK: 1024}
SESSION_KEY_BYTES = {STRONG: 32, WEAK: 16}
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


class RefusedError(Exception):
    """A rule does not hold; ``reason`` is the word in docs/errors.md."""

    def __init__(self, reason: str, cause: str = "") -> None:
        super().__init__(reason, cause)
        self.reason = reason
        self.cause = cause


class MismatchError(Exception):
    """A value in the file is not what this program computes."""


def same(what: str, expected: object, computed: object) -> None:
    """Raise unless a value of the file is the one computed."""
    if expected != computed:
        raise MismatchError(f"{what}: the file has {expected!r}, computed {computed!r}")


def pae(*pieces: bytes) -> bytes:
    """Encode pieces: count and lengths are 8 bytes, big-endian."""
    encoded = struct.pack(">Q", len(pieces))
    for piece in pieces:
        encoded += struct.pack(">Q", len(piece)) + piece
    return encoded


def sha256(data: bytes) -> bytes:
    """Return 32 bytes."""
    return hashlib.sha256(data).digest()


def padded_size(size: int) -> int:
    """Return the Padme size, at least 256."""
    if size <= 256:
        return 256
    e = size.bit_length() - 1
    s = e.bit_length()
    unit = 1 << (e - s)
    return -(-size // unit) * unit


def pad(content: bytes) -> bytes:
    """Frame and pad."""
    framed = struct.pack(">Q", len(content)) + content
    return framed + bytes(padded_size(len(framed)) - len(framed))


def unpad(plaintext: bytes) -> bytes:
    """Undo :func:`pad`, strictly."""
    if len(plaintext) < 256:
        raise RefusedError("CONTENT_REFUSED")
    (size,) = struct.unpack(">Q", plaintext[:8])
    content = plaintext[8 : 8 + size]
    if len(content) != size or pad(content) != plaintext:
        raise RefusedError("CONTENT_REFUSED")
    return content


@dataclass(frozen=True)
class PublicKey:
    """A device's public key, with its suite."""

    suite: str
    der: bytes

    @property
    def key(self) -> RSAPublicKey:
        """Load it; it must be RSA, of the suite's size, exponent 65537, in canonical DER."""
        try:
            key = serialization.load_der_public_key(self.der)
        except ValueError as error:
            raise RefusedError("KEY_REFUSED") from error
        if not isinstance(key, RSAPublicKey) or key.key_size != MODULUS_BITS[self.suite]:
            raise RefusedError("KEY_REFUSED")
        again = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if key.public_numbers().e != 65537 or again != self.der:
            raise RefusedError("KEY_REFUSED")
        return key

    def verify_digest(self, digest: bytes, signature: bytes) -> None:
        """Verify a signature in the form of the suite over a SHA-256 digest."""
        scheme = PSS if self.suite == STRONG else padding.PKCS1v15()
        try:
            self.key.verify(signature, digest, scheme, utils.Prehashed(hashes.SHA256()))
        except InvalidSignature as error:
            raise RefusedError("SIGNATURE_INVALID") from error

    def verify(self, label: str, statement: bytes, signature: bytes) -> None:
        """Verify a signature over PAE(label, statement)."""
        self.verify_digest(sha256(pae(label.encode(), statement)), signature)

    def endorsement_hash(self, key_request: bytes, child_der: bytes) -> bytes:
        """Return what a key of this suite signs to vouch for another."""
        if self.suite == STRONG:
            return sha256(pae(b"keypost/v1/endorsement", key_request))
        return hashlib.sha1(child_der, usedforsecurity=False).digest()

    def verify_endorsement(self, endorsement_hash: bytes, signature: bytes) -> None:
        """Verify what vouches for another key."""
        if self.suite == STRONG:
            self.verify_digest(endorsement_hash, signature)
            return
        try:
            self.key.verify(signature, endorsement_hash, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))  # noqa: S303
        except InvalidSignature as error:
            raise RefusedError("SIGNATURE_INVALID") from error


def extension_digest(suite: str, extension: bytes, session_key_hash: bytes) -> bytes:
    """Return what is signed of an extension."""
    if suite == STRONG:
        return sha256(pae(b"keypost/v1/extension", extension, session_key_hash))
    return session_key_hash


def open_sealed(private_key: RSAPrivateKey, sealed: bytes) -> bytes:
    """Decrypt a sealed session key."""
    try:
        return private_key.decrypt(sealed, OAEP)
    except ValueError as error:
        raise RefusedError("SESSION_KEY_REFUSED") from error


def key_id(suite: str, realm: str, creator: tuple[str, bytes], users: list[str], time: int, key: bytes) -> bytes:
    """Return the name of a session key; ``creator`` is address and fingerprint."""
    first, second = sorted(user.encode() for user in users)
    when = struct.pack(">Q", time)
    address, fingerprint = creator
    return sha256(
        pae(
            b"keypost/v1/key-id",
            realm.encode(),
            suite.encode(),
            address.encode(),
            fingerprint,
            first,
            second,
            when,
            key,
        )
    )


def message_key(suite: str, session_key: bytes, realm: str, name: bytes, sender: tuple[str, bytes]) -> bytes:
    """Return the key that encrypts a sender's messages; ``sender`` is address and fingerprint, ``name`` the key_id."""
    if suite == WEAK:
        return session_key
    info = pae(b"keypost/v1/message-key", realm.encode(), suite.encode(), name, sender[0].encode(), sender[1])
    return HKDF(hashes.SHA256(), 32, None, info).derive(session_key)


def associated_data(header: bytes, extension: bytes) -> bytes:
    """Return what the encryption authenticates beside the plaintext."""
    return pae(b"keypost/v1/message", header, sha256(extension))


def decrypt(suite: str, key: bytes, nonce: bytes, ciphertext: bytes, data: bytes) -> bytes:
    """Return the content."""
    try:
        plaintext = AESGCM(key).decrypt(nonce, ciphertext, data)
    except (InvalidTag, ValueError) as error:
        raise RefusedError("DECRYPTION_FAILED") from error
    return unpad(plaintext) if suite == STRONG else plaintext


def verify_ed25519(der: bytes, label: str, statement: bytes, signature: bytes) -> None:
    """Verify the signature of a root or record key."""
    key = serialization.load_der_public_key(der)
    if not isinstance(key, Ed25519PublicKey):
        raise RefusedError("KEY_REFUSED")
    try:
        key.verify(signature, pae(label.encode(), statement))
    except InvalidSignature as error:
        raise RefusedError("SIGNATURE_INVALID") from error
