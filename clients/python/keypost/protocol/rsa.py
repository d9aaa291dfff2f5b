"""RSA key pairs of devices; the one place where RSA operations happen, so that they can be counted."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from keypost.protocol.errors import KeyRefusedError, SessionKeyRefusedError, SignatureInvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding

PUBLIC_EXPONENT = 65537
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
PKCS1 = padding.PKCS1v15()


class Operations:
    """How many RSA operations happened, by kind: ``seal``, ``open``, ``sign``, ``verify``."""

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of all operations."""
        return self.by_kind.total()


_counting: ContextVar[Operations | None] = ContextVar("_counting", default=None)


@contextmanager
def counted() -> Iterator[Operations]:
    """Count the RSA operations within the block, also in inner blocks and in threads of ``asyncio.to_thread``."""
    operations, around = Operations(), _counting.get()
    token = _counting.set(operations)
    try:
        yield operations
    finally:
        _counting.reset(token)
        if around is not None:
            around.by_kind.update(operations.by_kind)


def _count(kind: str) -> None:
    if (operations := _counting.get()) is not None:
        operations.by_kind[kind] += 1


def generate_private_key(bits: int) -> rsa.RSAPrivateKey:
    """Return a new private key from the operating system's generator (0.3 s at 3072 bits: not on an event loop)."""
    return rsa.generate_private_key(PUBLIC_EXPONENT, bits)


def private_key_to_der(private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the key as PKCS #8 in DER, unencrypted: seal it before it is written anywhere."""
    return private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_key_from_der(der: bytes) -> rsa.RSAPrivateKey:
    """Return the private key in ``der`` (PKCS #8).

    Raises:
        KeyRefusedError: the bytes are no RSA private key, or its numbers do not belong together.
    """
    return _load_private_key(der, skip_validation=False)


def unsealed_private_key_from_der(der: bytes) -> rsa.RSAPrivateKey:
    """Return the private key in ``der`` (PKCS #8) without validating it again, which takes longer than anything else.

    Only for bytes that this device sealed and that were opened as such: ADR 0009.

    Raises:
        KeyRefusedError: the bytes are no RSA private key.
    """
    return _load_private_key(der, skip_validation=True)


def _load_private_key(der: bytes, *, skip_validation: bool) -> rsa.RSAPrivateKey:
    try:
        private_key = serialization.load_der_private_key(
            der, password=None, unsafe_skip_rsa_key_validation=skip_validation
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefusedError("these bytes are no private key") from error
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise KeyRefusedError("the private key is not RSA")
    return private_key


def public_key_to_der(public_key: rsa.RSAPublicKey) -> bytes:
    """Return the SubjectPublicKeyInfo of ``public_key`` in DER."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key_der(private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the SubjectPublicKeyInfo, in DER, of the public half of ``private_key``."""
    return public_key_to_der(private_key.public_key())


def load_public_key(der: bytes, bits: int) -> rsa.RSAPublicKey:
    """Return the public key in ``der``.

    Raises:
        KeyRefusedError: it is no SubjectPublicKeyInfo in canonical DER of an RSA key of ``bits`` bits, exponent 65537,
            with an odd modulus.
    """
    try:
        public_key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefusedError("these bytes are no public key") from error
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise KeyRefusedError("the public key is not RSA")
    _check_strength(public_key, bits)
    _check_canonical(public_key, der)
    return public_key


def _check_strength(public_key: rsa.RSAPublicKey, bits: int) -> None:
    if public_key.key_size != bits:
        raise KeyRefusedError(f"the public key has {public_key.key_size} bits, its suite {bits}")
    if public_key.public_numbers().e != PUBLIC_EXPONENT:
        raise KeyRefusedError(f"the public exponent is not {PUBLIC_EXPONENT}")
    if public_key.public_numbers().n % 2 == 0:
        raise KeyRefusedError("the modulus is even: it is no product of two large primes")


def _check_canonical(public_key: rsa.RSAPublicKey, der: bytes) -> None:
    # A second encoding of one key would give it a second fingerprint.
    if public_key_to_der(public_key) != der:
        raise KeyRefusedError("the public key is not in canonical DER")


def seal(public_key: rsa.RSAPublicKey, secret: bytes) -> bytes:
    """Return ``secret`` encrypted to ``public_key`` (RSAES-OAEP, SHA-256, empty label), as long as the modulus."""
    _count("seal")
    return public_key.encrypt(secret, OAEP)


def open_sealed(private_key: rsa.RSAPrivateKey, sealed: bytes) -> bytes:
    """Return what :func:`seal` encrypted.

    Raises:
        SessionKeyRefusedError: ``sealed`` was not made for this key.
    """
    _count("open")
    try:
        return private_key.decrypt(sealed, OAEP)
    except ValueError as error:
        raise SessionKeyRefusedError("the sealed session key does not open with this device's key") from error


def sign_digest(
    private_key: rsa.RSAPrivateKey, digest: bytes, scheme: AsymmetricPadding, algorithm: hashes.HashAlgorithm
) -> bytes:
    """Return the signature of a hash that is already computed."""
    _count("sign")
    return private_key.sign(digest, scheme, utils.Prehashed(algorithm))


def verify_digest(
    public_key: rsa.RSAPublicKey,
    signature: bytes,
    digest: bytes,
    scheme: AsymmetricPadding,
    algorithm: hashes.HashAlgorithm,
) -> None:
    """Verify the signature of a hash that is already computed.

    Raises:
        SignatureInvalidError: the signature is not this key's over this hash.
    """
    _count("verify")
    try:
        public_key.verify(signature, digest, scheme, utils.Prehashed(algorithm))
    except InvalidSignature as error:
        raise SignatureInvalidError("the signature does not match the key") from error
