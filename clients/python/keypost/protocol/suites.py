"""The two suites: which algorithms a key pair acts with (docs/spec.md, "Suites")."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol import padding, rsa
from keypost.protocol.encoding import ENDORSEMENT, EXTENSION, MESSAGE_KEY, pae, sha1, sha256
from keypost.protocol.errors import DecryptionError, SessionKeyRefusedError, SuiteUnknownError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

NONCE_BYTES = 12
SHA256 = hashes.SHA256()


class Suite(ABC):
    """The fixed algorithms of a key pair.

    Attributes:
        id: The value of the protobuf enum ``Suite``.
        name: Its name there, without the prefix; this is what enters hashes.
        strength: Orders suites: a key's suite must reach the verifier's minimum.
        key_bits: Size of the RSA modulus.
        session_key_bytes: Length of a session key.
        jwt_algorithm: The ``alg`` of the tokens that a key of this suite signs.
    """

    id: ClassVar[pb.Suite.ValueType]
    name: ClassVar[str]
    strength: ClassVar[int]
    key_bits: ClassVar[int]
    session_key_bytes: ClassVar[int]
    jwt_algorithm: ClassVar[str]
    _scheme: ClassVar[AsymmetricPadding]

    def __repr__(self) -> str:
        return self.name

    @property
    def sealed_key_bytes(self) -> int:
        """Length of a session key sealed to a key of this suite."""
        return self.key_bits // 8

    @property
    def signature_bytes(self) -> int:
        """Length of a signature by a key of this suite."""
        return self.key_bits // 8

    def generate_private_key(self) -> RSAPrivateKey:
        """Return a new private key of this suite (slow: not on an event loop)."""
        return rsa.generate_private_key(self.key_bits)

    def load_public_key(self, public_key_der: bytes) -> RSAPublicKey:
        """Return the public key; raises :class:`KeyRefusedError` unless it is one of this suite."""
        return rsa.load_public_key(public_key_der, self.key_bits)

    def seal(self, public_key: RSAPublicKey, session_key: bytes) -> bytes:
        """Return ``session_key`` sealed to a key of this suite: ``sealed_key_bytes`` bytes."""
        return rsa.seal(public_key, session_key)

    def open(self, private_key: RSAPrivateKey, sealed_key: bytes) -> bytes:
        """Return the session key; raises :class:`SessionKeyRefusedError` if it was not sealed to this key."""
        return rsa.open_sealed(private_key, sealed_key)

    def sign(self, private_key: RSAPrivateKey, label: bytes, statement: bytes) -> bytes:
        """Return the signature over PAE(label, statement)."""
        return rsa.sign_digest(private_key, sha256(pae(label, statement)), self._scheme, SHA256)

    def verify(self, public_key: RSAPublicKey, label: bytes, statement: bytes, signature: bytes) -> None:
        """Verify what :meth:`sign` signed; raises :class:`SignatureInvalidError`."""
        rsa.verify_digest(public_key, signature, sha256(pae(label, statement)), self._scheme, SHA256)

    def check_session_key(self, session_key: bytes) -> bytes:
        """Return ``session_key``; raises :class:`SessionKeyRefusedError` unless it has exactly the suite's length."""
        if len(session_key) != self.session_key_bytes:
            raise SessionKeyRefusedError(
                f"the session key has {len(session_key)} bytes, in {self.name} it has {self.session_key_bytes}"
            )
        return session_key

    def sign_extension(self, private_key: RSAPrivateKey, extension: bytes, session_key_hash: bytes) -> bytes:
        """Return the signature of an extension statement.

        Args:
            private_key: The signer's, of this suite.
            extension: The serialised statement.
            session_key_hash: SHA-256 of the session key, 32 bytes.
        """
        digest = self._extension_digest(extension, session_key_hash)
        return rsa.sign_digest(private_key, digest, self._scheme, SHA256)

    def verify_extension(
        self, public_key: RSAPublicKey, extension: bytes, session_key_hash: bytes, signature: bytes
    ) -> None:
        """Verify what :meth:`sign_extension` signed; raises :class:`SignatureInvalidError`."""
        digest = self._extension_digest(extension, session_key_hash)
        rsa.verify_digest(public_key, signature, digest, self._scheme, SHA256)

    def encrypt(self, key: bytes, nonce: bytes, content: bytes, associated_data: bytes) -> bytes:
        """Return AES-GCM ciphertext and tag of ``content``; ``nonce`` is 12 fresh random bytes."""
        return AESGCM(key).encrypt(nonce, self.pad(content), associated_data)

    def decrypt(self, key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Return the content.

        Raises:
            DecryptionError: key, nonce, ciphertext and associated data do not belong together.
            ContentRefusedError: the padding is wrong.
        """
        try:
            padded = AESGCM(key).decrypt(nonce, ciphertext, associated_data)
        except (InvalidTag, ValueError) as error:
            raise DecryptionError("the message was altered, or sealed for another header or extension") from error
        return self.unpad(padded)

    @abstractmethod
    def _extension_digest(self, extension: bytes, session_key_hash: bytes) -> bytes:
        """Return the 32 bytes that the signature of an extension is made over."""

    @abstractmethod
    def endorsement_hash(self, key_request: bytes, public_key_der: bytes) -> bytes:
        """Return the hash that a parent key of this suite signs for a child (renewal, steps 2 and 5)."""

    @abstractmethod
    def sign_endorsement(self, private_key: RSAPrivateKey, endorsement_hash: bytes) -> bytes:
        """Return the parent's signature of an endorsement hash (renewal, step 3)."""

    @abstractmethod
    def verify_endorsement(self, public_key: RSAPublicKey, endorsement_hash: bytes, signature: bytes) -> None:
        """Verify what :meth:`sign_endorsement` signed (renewal, step 6); raises :class:`SignatureInvalidError`."""

    @abstractmethod
    def message_key(self, session_key: bytes, *context: bytes) -> bytes:
        """Return the key that encrypts a sending device's messages.

        Args:
            session_key: The session key.
            context: realm, suite name, key_id, sender address, sender fingerprint.
        """

    @abstractmethod
    def pad(self, content: bytes) -> bytes:
        """Return the plaintext for ``content``."""

    @abstractmethod
    def unpad(self, plaintext: bytes) -> bytes:
        """Return the content of a plaintext; raises :class:`ContentRefusedError`."""


class _Rsa3072Aes256(Suite):
    id = pb.SUITE_RSA3072_AES256
    name = "RSA3072_AES256"
    strength = 2
    key_bits = 3072
    session_key_bytes = 32
    jwt_algorithm = "PS256"
    _scheme = rsa.PSS

    def _extension_digest(self, extension: bytes, session_key_hash: bytes) -> bytes:
        # The statement is signed too: a signature of the key alone could be re-sealed to a third person.
        return sha256(pae(EXTENSION, extension, session_key_hash))

    def endorsement_hash(self, key_request: bytes, public_key_der: bytes) -> bytes:
        del public_key_der  # it is part of the request
        return sha256(pae(ENDORSEMENT, key_request))

    def sign_endorsement(self, private_key: RSAPrivateKey, endorsement_hash: bytes) -> bytes:
        return rsa.sign_digest(private_key, endorsement_hash, rsa.PSS, SHA256)

    def verify_endorsement(self, public_key: RSAPublicKey, endorsement_hash: bytes, signature: bytes) -> None:
        rsa.verify_digest(public_key, signature, endorsement_hash, rsa.PSS, SHA256)

    def message_key(self, session_key: bytes, *context: bytes) -> bytes:
        return HKDF(SHA256, 32, salt=None, info=pae(MESSAGE_KEY, *context)).derive(session_key)

    def pad(self, content: bytes) -> bytes:
        return padding.pad(content)

    def unpad(self, plaintext: bytes) -> bytes:
        return padding.unpad(plaintext)


class _Rsa1024Aes128(Suite):
    """The source document's algorithms to the letter; its weaknesses are the source document's."""

    id = pb.SUITE_RSA1024_AES128
    name = "RSA1024_AES128"
    strength = 1
    key_bits = 1024
    session_key_bytes = 16
    jwt_algorithm = "RS256"
    _scheme = rsa.PKCS1

    def _extension_digest(self, extension: bytes, session_key_hash: bytes) -> bytes:
        del extension  # the source document signs the hash of the symmetric key and nothing else
        return session_key_hash

    def endorsement_hash(self, key_request: bytes, public_key_der: bytes) -> bytes:
        del key_request  # the source document hashes the new public key and nothing else
        return sha1(public_key_der)

    def sign_endorsement(self, private_key: RSAPrivateKey, endorsement_hash: bytes) -> bytes:
        return rsa.sign_digest(private_key, endorsement_hash, rsa.PKCS1, hashes.SHA1())  # noqa: S303

    def verify_endorsement(self, public_key: RSAPublicKey, endorsement_hash: bytes, signature: bytes) -> None:
        rsa.verify_digest(public_key, signature, endorsement_hash, rsa.PKCS1, hashes.SHA1())  # noqa: S303

    def message_key(self, session_key: bytes, *context: bytes) -> bytes:
        del context
        return session_key

    def pad(self, content: bytes) -> bytes:
        return content

    def unpad(self, plaintext: bytes) -> bytes:
        return plaintext


STRONG: Suite = _Rsa3072Aes256()
WEAK: Suite = _Rsa1024Aes128()
SUITES = (STRONG, WEAK)
_BY_NAME = {suite.name: suite for suite in SUITES}


def suite_for(suite_id: int) -> Suite:
    """Return the suite with this value of the protobuf enum.

    Raises:
        SuiteUnknownError: there is none.
    """
    for suite in SUITES:
        if suite.id == suite_id:
            return suite
    raise SuiteUnknownError(f"suite {suite_id} is unknown to this version")


def suite_named(name: str) -> Suite:
    """Return the suite of this name, such as ``RSA3072_AES256``.

    Raises:
        SuiteUnknownError: there is none.
    """
    if (suite := _BY_NAME.get(name)) is None:
        raise SuiteUnknownError(f"there is no suite {name!r}; there are {', '.join(sorted(_BY_NAME))}")
    return suite
