"""How an administrator withdraws a key: a revocation signed by the certificate's key (docs/spec.md, "Revocations").

The certificate names him, and its root vouches for that; what he signed stays provable after the connection has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import REVOCATION, fingerprint, pae
from keypost.protocol.errors import KeyRefusedError, SignatureInvalidError

if TYPE_CHECKING:
    from keypost.protocol.revocations import Revocation

    AdministratorKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

LONGEST_SIGNATURE = 72
"""Of ECDSA P-256 in DER; an Ed25519 signature has 64 bytes."""
_REFUSED = "an administrator's key is Ed25519 or ECDSA P-256"


def check_administrator_key(private_key: object) -> AdministratorKey:
    """Return the private key of an administrator's certificate if it can sign revocations.

    Raises:
        KeyRefusedError: it is neither Ed25519 nor ECDSA P-256.
    """
    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return private_key
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and isinstance(private_key.curve, ec.SECP256R1):
        return private_key
    raise KeyRefusedError(_REFUSED)


def sign_administrators_revocation(revocation: pb.Revocation, private_key: AdministratorKey) -> pb.SignedRevocation:
    """Return ``revocation`` signed by the private key of an administrator's certificate."""
    statement = revocation.SerializeToString(deterministic=True)
    public_key_der = private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pb.SignedRevocation(
        revocation=statement,
        signature=_sign(private_key, pae(REVOCATION, statement)),
        signer_fingerprint=fingerprint(public_key_der),
    )


def verify_administrators_revocation(revocation: Revocation, public_key_der: bytes) -> None:
    """Verify that the key of an administrator's certificate signed a revocation.

    Args:
        revocation: The revocation.
        public_key_der: The key of the certificate that the caller has shown: SubjectPublicKeyInfo in DER.

    Raises:
        SignatureInvalidError: it did not, or the revocation names another key as its signer.
        KeyRefusedError: the key is neither Ed25519 nor ECDSA P-256.
    """
    signed = revocation.signed
    if signed.signer_fingerprint != fingerprint(public_key_der):
        raise SignatureInvalidError("the revocation is signed by another key than the certificate's")
    try:
        _verify(public_key_der, signed.signature, pae(REVOCATION, signed.revocation))
    except InvalidSignature as error:
        raise SignatureInvalidError("the signature does not match the key") from error


def _sign(private_key: AdministratorKey, data: bytes) -> bytes:
    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return private_key.sign(data)
    return private_key.sign(data, ec.ECDSA(hashes.SHA256()))


def _verify(public_key_der: bytes, signature: bytes, data: bytes) -> None:
    public_key = _load(public_key_der)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        public_key.verify(signature, data)
    else:
        public_key.verify(signature, data, ec.ECDSA(hashes.SHA256()))


def _load(public_key_der: bytes) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    try:
        public_key = serialization.load_der_public_key(public_key_der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefusedError("these bytes are no public key") from error
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1):
        return public_key
    raise KeyRefusedError(_REFUSED)
