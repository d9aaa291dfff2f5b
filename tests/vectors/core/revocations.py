"""Runs vectors about revocations through ``keypost.protocol``; what must be refused is raised as a ProtocolError."""

from __future__ import annotations

from typing import Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import RESET_CANCELLATION, REVOCATION, pae
from keypost.protocol.key_requests import KeyRequest, read_key_request
from keypost.protocol.revocations import (
    read_reset_cancellation,
    read_revocation,
    verify_reset_cancellation,
    verify_revocation,
)

Case = dict[str, Any]
Shared = dict[str, Any]


def _signer(case: Case) -> KeyRequest:
    return read_key_request(pb.SignedKeyRequest.FromString(bytes.fromhex(case["signer"])))


def revocations(case: Case, _: Shared) -> None:
    signed = pb.SignedRevocation.FromString(bytes.fromhex(case["revocation"]))
    revocation = read_revocation(signed)
    verify_revocation(revocation, _signer(case))
    assert signed.revocation.hex() == case["statement"]
    assert pae(REVOCATION, signed.revocation).hex() == case["signed"]
    assert str(revocation.address) == case["address"]
    assert revocation.fingerprint.hex() == case["fingerprint"]
    assert pb.RevocationReason.Name(revocation.reason) == f"REVOCATION_REASON_{case['reason'].upper()}"
    assert (revocation.revision, revocation.since_time) == (case["revision"], case["since_time"])


def reset_cancellations(case: Case, _: Shared) -> None:
    signed = pb.SignedResetCancellation.FromString(bytes.fromhex(case["reset_cancellation"]))
    cancellation = read_reset_cancellation(signed)
    verify_reset_cancellation(cancellation, _signer(case))
    assert signed.reset_cancellation.hex() == case["statement"]
    assert pae(RESET_CANCELLATION, signed.reset_cancellation).hex() == case["signed"]
    assert (str(cancellation.address), cancellation.revision) == (case["address"], case["revision"])
