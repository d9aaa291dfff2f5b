"""Who withdraws keys that are not his to withdraw; against the CA, by a client that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.suites import STRONG
from support.plain_client import refusal
from support.refusals import refused

if TYPE_CHECKING:
    from keypost.ca.v1 import ca_service_pb2 as pb
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.ca_service import CaUnderTest

LOST = keys_pb.REVOCATION_REASON_LOST
COMPROMISED = keys_pb.REVOCATION_REASON_COMPROMISED


@pytest.fixture
async def alice(ca: CaUnderTest) -> DeviceKeyPair:
    return await ca.enroll("alice", suite=STRONG)


async def revoke(ca: CaUnderTest, request: pb.RevokeRequest) -> pb.RevokeResponse:
    answer: pb.RevokeResponse = await (await ca.devices()).Revoke(request, timeout=20)
    return answer


async def test_the_device_of_another_user_is_revoked(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    mallory = await ca.enroll("mallory", suite=STRONG)
    request = await ca.revoke_request(alice, mallory)
    request.revocation.signer_fingerprint = alice.fingerprint
    await refused(revoke(ca, request), "REVOCATION_REFUSED")
    await refused(revoke(ca, await ca.revoke_request(alice, mallory)), "REVOCATION_REFUSED")
    hers = await ca.revoke_request(mallory, mallory, fingerprint=alice.fingerprint)
    await refused(revoke(ca, hers), "KEY_ENDED")


async def test_an_overheard_revocation_turned_against_another_device(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    request = await ca.revoke_request(await ca.approve(alice), alice)
    statement = keys_pb.Revocation.FromString(request.revocation.revocation)
    statement.device_id, statement.fingerprint = alice.address.device_id, alice.fingerprint
    request.revocation.revocation = statement.SerializeToString()
    await refused(revoke(ca, request), "REVOCATION_REFUSED")


async def test_a_revocation_by_a_revoked_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen = await ca.approve(alice)
    await ca.revoke(stolen, alice, reason=LOST)
    await refused(revoke(ca, await ca.revoke_request(alice, stolen)), "REVOCATION_REFUSED")


async def test_a_revocation_by_a_replaced_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen = await ca.approve(alice)
    await ca.renew(stolen)
    await refused(revoke(ca, await ca.revoke_request(alice, stolen)), "REVOCATION_REFUSED")


async def test_a_revocation_by_an_expired_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    found_in_the_attic = await ca.approve(alice)
    ca.clock.advance(90 * DAY)
    await refused(revoke(ca, await ca.revoke_request(alice, found_in_the_attic)), "REVOCATION_REFUSED")


async def test_a_revocation_by_a_device_that_a_thief_brought_in(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen = await ca.approve(alice)
    since = ca.clock()
    ca.clock.advance(1)
    thief = await ca.approve(stolen)
    await ca.revoke(stolen, alice, reason=COMPROMISED, since_time=since)
    await refused(revoke(ca, await ca.revoke_request(alice, thief)), "REVOCATION_REFUSED")


async def test_a_revocation_held_back_until_nobody_wants_it_any_more(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    tablet = await ca.approve(alice)
    held_back = await ca.revoke_request(tablet, alice)
    await ca.approve(alice)  # she found the tablet again, and went on
    await refused(revoke(ca, held_back), "REVISION_TAKEN")


async def test_a_compromise_that_is_still_to_come(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    """Nobody could read the record before that time: an entry would have ended later than the record was made."""
    request = await ca.revoke_request(alice, alice, reason=COMPROMISED, since_time=ca.clock() + DAY)
    await refused(revoke(ca, request), "INVALID_FIELD", field="revocation.revocation.since_time")


async def test_a_revocation_for_another_realm(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    request = await ca.revoke_request(alice, alice, realm="other.example")
    await refused(revoke(ca, request), "INVALID_FIELD", field="revocation.revocation.realm")


async def test_whether_a_user_exists_is_asked_by_revoking(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    mallory = await ca.enroll("mallory", suite=STRONG)
    answers = [
        await refusal(revoke(ca, await ca.revoke_request(alice, mallory, username=name)))
        for name in ("alice", "nobody")
    ]
    assert answers[0] == answers[1]
