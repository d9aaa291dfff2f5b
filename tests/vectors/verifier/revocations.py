"""Checks of the vector files about revocations and cancellations of resets."""

from __future__ import annotations

from typing import Any

from keypost.keys.v1 import key_info_pb2
from vectors.verifier.primitives import RefusedError, pae, same, sha256
from vectors.verifier.statements import parsed, public_key_of, read_request

Case = dict[str, Any]
Shared = dict[str, Any]
REASONS = {1: "retired", 2: "lost", 3: "compromised"}


def verify(case: Case, label: str, statement: bytes, signature: bytes) -> bytes:
    """Verify a signature with the key of the case's signer, and return that key's fingerprint."""
    signer = read_request(key_info_pb2.SignedKeyRequest.FromString(bytes.fromhex(case["signer"])))
    public_key_of(signer).verify(label, statement, signature)
    return sha256(signer.public_key_der)


def revocations(case: Case, _: Shared) -> None:
    """Check a case of revocations.json."""
    signed = key_info_pb2.SignedRevocation.FromString(bytes.fromhex(case["revocation"]))
    said = parsed(key_info_pb2.Revocation(), signed.revocation)
    by = verify(case, "keypost/v1/revocation", signed.revocation, signed.signature)
    if "must_fail" in case:
        return
    if said.reason not in REASONS or len(said.fingerprint) != 32:
        raise RefusedError("MALFORMED_STATEMENT")
    same("signer", by, signed.signer_fingerprint)
    same("statement", case["statement"], signed.revocation.hex())
    same("signed", case["signed"], pae(b"keypost/v1/revocation", signed.revocation).hex())
    same("address", case["address"], f"{said.username}/{said.device_id}")
    same("fingerprint", case["fingerprint"], said.fingerprint.hex())
    same("reason", case["reason"], REASONS[said.reason])
    same("numbers", (case["revision"], case["since_time"]), (said.revision, said.since_time))


def reset_cancellations(case: Case, _: Shared) -> None:
    """Check a case of reset_cancellations.json."""
    signed = key_info_pb2.SignedResetCancellation.FromString(bytes.fromhex(case["reset_cancellation"]))
    said = parsed(key_info_pb2.ResetCancellation(), signed.reset_cancellation)
    by = verify(case, "keypost/v1/reset-cancellation", signed.reset_cancellation, signed.signature)
    if "must_fail" in case:
        return
    same("signer", by, signed.signer_fingerprint)
    same("statement", case["statement"], signed.reset_cancellation.hex())
    same("signed", case["signed"], pae(b"keypost/v1/reset-cancellation", signed.reset_cancellation).hex())
    same("address", case["address"], f"{said.username}/{said.device_id}")
    same("revision", case["revision"], said.revision)
