"""Checks of the vector file about administrators' revocations."""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keypost.keys.v1 import key_info_pb2
from vectors.verifier.primitives import RefusedError, pae, same, sha256
from vectors.verifier.statements import parsed

Case = dict[str, Any]
Shared = dict[str, Any]


def administrators_revocations(case: Case, _: Shared) -> None:
    """Check a case of administrators_revocations.json."""
    signed = key_info_pb2.SignedRevocation.FromString(bytes.fromhex(case["revocation"]))
    said = parsed(key_info_pb2.Revocation(), signed.revocation)
    public_key_der = bytes.fromhex(case["public_key"])
    data = pae(b"keypost/v1/revocation", signed.revocation)
    verify(public_key_der, signed.signature, data)
    if sha256(public_key_der) != signed.signer_fingerprint:
        raise RefusedError("SIGNATURE_INVALID")
    if "must_fail" in case:
        return
    same("signed", case["signed"], data.hex())
    same("address", case["address"], f"{said.username}/{said.device_id}")
    same("fingerprint", case["fingerprint"], said.fingerprint.hex())


def verify(public_key_der: bytes, signature: bytes, data: bytes) -> None:
    """Verify a signature with a key of one of the two kinds."""
    try:
        public_key = load_der_public_key(public_key_der)
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, data)
        elif isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name == "secp256r1":
            public_key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            raise RefusedError("KEY_REFUSED")
    except ValueError as error:
        raise RefusedError("KEY_REFUSED") from error
    except InvalidSignature as error:
        raise RefusedError("SIGNATURE_INVALID") from error
