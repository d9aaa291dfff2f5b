from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import MalformedStatementError, SignatureInvalidError
from keypost.protocol.revocations import (
    read_reset_cancellation,
    read_revocation,
    sign_reset_cancellation,
    sign_revocation,
    verify_reset_cancellation,
    verify_revocation,
)
from keypost.protocol.suites import STRONG, WEAK
from support.realm import REALM, SimulatedRealm

_realm = SimulatedRealm()
ALICE = {suite: _realm.enroll(f"alice.{suite.name.lower()[:7]}", suite) for suite in (STRONG, WEAK)}
REQUESTS = {suite: _realm.user(pair.address.username).keys[0].request for suite, pair in ALICE.items()}
BOTH = pytest.mark.parametrize("suite", [STRONG, WEAK])


def revocation(suite: Any = WEAK, **changes: Any) -> pb.Revocation:
    pair = ALICE[suite]
    made = pb.Revocation(
        realm=REALM,
        username=pair.address.username,
        device_id=pair.address.device_id,
        fingerprint=pair.fingerprint,
        reason=pb.REVOCATION_REASON_COMPROMISED,
        revision=2,
        since_time=7,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def cancellation(suite: Any = WEAK, **changes: Any) -> pb.ResetCancellation:
    address = ALICE[suite].address
    made = pb.ResetCancellation(realm=REALM, username=address.username, device_id=address.device_id, revision=2)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@BOTH
def test_a_revocation_is_read_and_verified(suite: Any) -> None:
    pair = ALICE[suite]
    read = read_revocation(sign_revocation(revocation(suite), pair))
    verify_revocation(read, REQUESTS[suite])
    assert (read.realm, read.address, read.fingerprint) == (REALM, pair.address, pair.fingerprint)
    assert (read.reason, read.revision, read.since_time) == (pb.REVOCATION_REASON_COMPROMISED, 2, 7)


@BOTH
def test_a_cancellation_is_read_and_verified(suite: Any) -> None:
    pair = ALICE[suite]
    read = read_reset_cancellation(sign_reset_cancellation(cancellation(suite), pair))
    verify_reset_cancellation(read, REQUESTS[suite])
    assert (read.realm, read.address, read.revision) == (REALM, pair.address, 2)


@BOTH
def test_what_another_key_signed_is_not_the_devices(suite: Any) -> None:
    other = REQUESTS[WEAK if suite is STRONG else STRONG]
    with pytest.raises(SignatureInvalidError):
        verify_revocation(read_revocation(sign_revocation(revocation(suite), ALICE[suite])), other)
    signed = sign_reset_cancellation(cancellation(suite), ALICE[suite])
    with pytest.raises(SignatureInvalidError):
        verify_reset_cancellation(read_reset_cancellation(signed), other)


@BOTH
def test_one_statement_is_not_taken_for_the_other(suite: Any) -> None:
    """Their fields have the same numbers: but for the labels, a cancellation could be read as a revocation."""
    signed = sign_revocation(revocation(suite), ALICE[suite])
    posing = pb.SignedResetCancellation(
        reset_cancellation=cancellation(suite).SerializeToString(deterministic=True), signature=signed.signature
    )
    with pytest.raises(SignatureInvalidError):
        verify_reset_cancellation(read_reset_cancellation(posing), REQUESTS[suite])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"realm": "Example"}, ""),
        ({"username": ""}, ""),
        ({"device_id": "short"}, ""),
        ({"revision": 0}, "revision"),
        ({"revision": 2**63}, "revision"),
        ({"fingerprint": bytes(31)}, "fingerprint"),
        ({"reason": pb.REVOCATION_REASON_RESET}, "reason"),
        ({"reason": pb.REVOCATION_REASON_UNSPECIFIED}, "reason"),
        ({"reason": 99}, "reason"),
        ({"since_time": -1}, "since_time"),
        ({"reason": pb.REVOCATION_REASON_LOST}, "since_time"),
    ],
)
def test_a_malformed_revocation_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedStatementError) as refusal:
        read_revocation(sign_revocation(revocation(**changes), ALICE[WEAK]))
    assert refusal.value.metadata.get("field", "") == field


@pytest.mark.parametrize("changes", [{"realm": ""}, {"username": "A"}, {"device_id": ""}, {"revision": 0}])
def test_a_malformed_cancellation_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedStatementError):
        read_reset_cancellation(sign_reset_cancellation(cancellation(**changes), ALICE[WEAK]))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_they_are_read_or_malformed(raw: bytes) -> None:
    for read in (
        lambda: read_revocation(pb.SignedRevocation(revocation=raw)),
        lambda: read_reset_cancellation(pb.SignedResetCancellation(reset_cancellation=raw)),
    ):
        with pytest.raises(MalformedStatementError):
            read()


@given(st.data())
def test_no_bit_of_a_statement_or_its_signature_may_turn(data: st.DataObject) -> None:
    signed = sign_revocation(revocation(), ALICE[WEAK])
    field = data.draw(st.sampled_from(["revocation", "signature"]))
    value = bytearray(getattr(signed, field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    setattr(signed, field, bytes(value))
    with pytest.raises((MalformedStatementError, SignatureInvalidError)):
        verify_revocation(read_revocation(signed), REQUESTS[WEAK])
