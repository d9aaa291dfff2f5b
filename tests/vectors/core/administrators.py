"""Runs vectors about administrators' revocations through ``keypost.protocol``."""

from __future__ import annotations

from typing import Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.administrators import verify_administrators_revocation
from keypost.protocol.encoding import REVOCATION, pae
from keypost.protocol.revocations import read_revocation

Case = dict[str, Any]
Shared = dict[str, Any]


def administrators_revocations(case: Case, _: Shared) -> None:
    signed = pb.SignedRevocation.FromString(bytes.fromhex(case["revocation"]))
    revocation = read_revocation(signed)
    verify_administrators_revocation(revocation, bytes.fromhex(case["public_key"]))
    assert pae(REVOCATION, signed.revocation).hex() == case["signed"]
    assert str(revocation.address) == case["address"]
    assert revocation.fingerprint.hex() == case["fingerprint"]
