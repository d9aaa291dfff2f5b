"""Who has an identity begin anew, or keeps it from it; against the CA, by a client that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.suites import STRONG
from support.ca_service import OPEN, CaUnderTest, open_ca
from support.refusals import refused

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.ca.v1 import ca_service_pb2 as pb
    from keypost.protocol.key_requests import DeviceKeyPair

LOST = keys_pb.REVOCATION_REASON_LOST
RESET = {"kind": keys_pb.KEY_REQUEST_KIND_RESET, "epoch": 2}


@pytest.fixture
async def alice(ca: CaUnderTest) -> DeviceKeyPair:
    """Alice, whose identity somebody has announced to begin anew."""
    pair = await ca.enroll("alice", suite=STRONG)
    await ca.request_reset("alice")
    return pair


async def enroll(ca: CaUnderTest, **changes: Any) -> None:
    _, request = await ca.enroll_request("alice", **changes)
    await (await ca.devices()).Enroll(request, timeout=20)


async def cancel(ca: CaUnderTest, request: pb.CancelResetRequest) -> None:
    await (await ca.devices()).CancelReset(request, timeout=20)


@pytest.mark.usefixtures("alice")
async def test_a_reset_before_it_is_due(ca: CaUnderTest) -> None:
    ca.clock.advance(DAY - 1)
    await refused(enroll(ca, **RESET), "APPROVAL_REQUIRED")


@pytest.mark.usefixtures("alice")
async def test_a_reset_that_was_announced_long_ago(ca: CaUnderTest) -> None:
    ca.clock.advance(8 * DAY)
    await refused(enroll(ca, **RESET), "APPROVAL_REQUIRED")


async def test_a_reset_after_it_was_cancelled(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    await cancel(ca, await ca.cancel_request(alice))
    ca.clock.advance(DAY)
    await refused(enroll(ca, **RESET), "APPROVAL_REQUIRED")


async def test_a_reset_asked_for_without_a_sign_in(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        await ca.enroll("alice", await ca.code("alice"))
        await refused(ca.request_reset("alice", OPEN), "SIGN_IN_REFUSED")


async def test_a_reset_asked_for_with_a_code_used_up(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        code = await ca.code("alice")
        await ca.enroll("alice", code)
        await refused(ca.request_reset("alice", code), "SIGN_IN_REFUSED")


async def test_a_cancellation_by_a_device_of_another_user(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    """Who means to take Alice's place after all keeps her from it."""
    mallory = await ca.enroll("mallory", suite=STRONG)
    address = alice.address
    request = await ca.cancel_request(mallory, username="alice", device_id=address.device_id, revision=3)
    request.cancellation.signer_fingerprint = alice.fingerprint
    await refused(cancel(ca, request), "RESET_CANCELLATION_REFUSED")
    request.cancellation.signer_fingerprint = mallory.fingerprint
    await refused(cancel(ca, request), "RESET_CANCELLATION_REFUSED")


async def test_a_cancellation_by_a_revoked_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen = await ca.approve(alice)
    await ca.revoke(stolen, alice, reason=LOST)
    await refused(cancel(ca, await ca.cancel_request(stolen)), "RESET_CANCELLATION_REFUSED")


async def test_a_cancellation_by_an_expired_key(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    ca.clock.advance(90 * DAY)
    await refused(cancel(ca, await ca.cancel_request(alice)), "RESET_CANCELLATION_REFUSED")


async def test_a_cancellation_replayed_at_the_next_reset(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    request = await ca.cancel_request(alice)
    await cancel(ca, request)
    await ca.request_reset("alice")
    await refused(cancel(ca, request), "REVISION_TAKEN")
