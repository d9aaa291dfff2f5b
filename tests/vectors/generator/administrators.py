"""Vectors of revocations that an administrator signs with the private key of the certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.administrators import sign_administrators_revocation
from keypost.protocol.encoding import RESET_CANCELLATION, REVOCATION, fingerprint, pae
from support.realm import REALM
from vectors.generator.files import VectorFile

if TYPE_CHECKING:
    from keypost.protocol.administrators import AdministratorKey

REVOKED = bytes(range(32))
ADDRESS = f"alice/{'a' * 16}"
OTHER_KINDS: dict[str, Any] = {
    "an RSA key": rsa.generate_private_key(65537, 2048),
    "a key of another curve": ec.generate_private_key(ec.SECP384R1()),
}


def administrators_revocations_file() -> VectorFile:
    file = VectorFile(
        "administrators_revocations",
        "A SignedRevocation, and the public key of the certificate that the channel showed.",
        "Revocations",
    )
    for kind, key in (("Ed25519", ed25519.Ed25519PrivateKey.generate()), ("ECDSA P-256", _p256())):
        _cases(file, kind, key)
    for kind, key in OTHER_KINDS.items():
        signed = _signed(_p256())
        signed.signer_fingerprint = fingerprint(_public(key))
        file.fails("KEY_REFUSED", kind, revocation=_hex(signed), public_key=_public(key).hex())
    return file


def _cases(file: VectorFile, kind: str, key: AdministratorKey) -> None:
    signed, public_key = _signed(key), _public(key).hex()
    file.good(
        kind,
        revocation=_hex(signed),
        public_key=public_key,
        signed=pae(REVOCATION, signed.revocation).hex(),
        address=ADDRESS,
        fingerprint=REVOKED.hex(),
    )
    for name, changes in _forgeries(key, signed).items():
        forged = pb.SignedRevocation()
        forged.CopyFrom(signed)
        forged.MergeFrom(pb.SignedRevocation(**changes))
        file.fails("SIGNATURE_INVALID", f"{kind}: {name}", revocation=_hex(forged), public_key=public_key)


def _forgeries(key: AdministratorKey, signed: pb.SignedRevocation) -> dict[str, dict[str, bytes]]:
    other = _signed(_p256())
    altered = _revocation(pb.REVOCATION_REASON_COMPROMISED).SerializeToString(deterministic=True)
    return {
        "another statement": {"revocation": altered},
        "the signature of another key": {"signature": other.signature},
        "another key's fingerprint": {"signer_fingerprint": other.signer_fingerprint},
        "signed for another use": {"signature": _sign(key, pae(RESET_CANCELLATION, signed.revocation))},
    }


def _revocation(reason: pb.RevocationReason.ValueType = pb.REVOCATION_REASON_LOST) -> pb.Revocation:
    username, device_id = ADDRESS.split("/")
    return pb.Revocation(
        realm=REALM, username=username, device_id=device_id, fingerprint=REVOKED, reason=reason, revision=2
    )


def _signed(key: AdministratorKey) -> pb.SignedRevocation:
    return sign_administrators_revocation(_revocation(), key)


def _sign(key: AdministratorKey, data: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _public(key: Any) -> bytes:
    encoding = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    der: bytes = key.public_key().public_bytes(*encoding)
    return der


def _hex(signed: pb.SignedRevocation) -> str:
    return signed.SerializeToString().hex()
