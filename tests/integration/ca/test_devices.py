"""Several devices of a user at the CA, over real TLS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.clock import DAY, HOUR
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.suites import STRONG
from support.ca_service import OPEN, CaUnderTest, open_ca
from support.plain_client import reason

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.protocol.key_requests import DeviceKeyPair

COMPROMISED = keys_pb.REVOCATION_REASON_COMPROMISED


@pytest.fixture
async def alice(ca: CaUnderTest) -> DeviceKeyPair:
    return await ca.enroll("alice", suite=STRONG)


async def events_after(ca: CaUnderTest, sequence: int) -> list[keys_pb.KeyEvent]:
    watch = (await ca.directory()).WatchKeyEvents(info_pb.WatchKeyEventsRequest(after_sequence=sequence))
    async with asyncio.timeout(20):
        answer = await watch.read()
    watch.cancel()
    assert isinstance(answer, info_pb.WatchKeyEventsResponse)
    return list(answer.events)


async def test_a_device_is_approved_and_found(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    pair, request = await ca.approve_request(alice, STRONG)
    stub = await ca.devices()
    answers = [ca.read((await stub.Approve(request)).key_info, "alice") for _ in range(2)]
    assert [record.revision for record in answers] == [2, 2], "the same request again is answered as the first time"
    found = await ca.record("alice")
    assert {key.address for key in found.good_keys(ca.clock())} == {alice.address, pair.address}
    (event,) = await events_after(ca, 1)
    assert (event.kind, event.fingerprint) == (keys_pb.KEY_EVENT_KIND_ENROLLED, pair.fingerprint)


async def test_a_device_is_revoked_with_all_that_it_brought_in(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    stolen, since = await ca.approve(alice), ca.clock()
    ca.clock.advance(1)
    thief = await ca.approve(stolen)
    request = await ca.revoke_request(stolen, alice, reason=COMPROMISED, since_time=since)
    stub = await ca.devices()
    answers = [ca.read((await stub.Revoke(request)).key_info, "alice") for _ in range(2)]
    assert [record.revision for record in answers] == [4, 4]
    assert [key.fingerprint for key in (await ca.record("alice")).good_keys(ca.clock())] == [alice.fingerprint]
    events = await events_after(ca, 3)
    assert [(event.kind, event.ended_fingerprint) for event in events] == [
        (keys_pb.KEY_EVENT_KIND_REVOKED, stolen.fingerprint),
        (keys_pb.KEY_EVENT_KIND_REVOKED, thief.fingerprint),
    ]


async def test_a_device_withdraws_itself_and_the_user_begins_anew(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    await ca.revoke(alice)
    again = await ca.enroll("alice", suite=STRONG)
    record = await ca.record("alice")
    assert (record.epoch, [key.fingerprint for key in record.good_keys(ca.clock())]) == (2, [again.fingerprint])


async def test_a_reset_is_announced_and_takes_place(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    announced = await ca.request_reset("alice")
    assert announced.reset_time - announced.current_time == DAY
    assert (await ca.record("alice")).reset_time == announced.reset_time
    begin = pb.BeginEnrollmentRequest(username="alice", sign_in=OPEN)
    stub = await ca.devices()
    assert (await stub.BeginEnrollment(begin)).kind == keys_pb.KEY_REQUEST_KIND_ENROLL
    assert await reason(ca.enroll("alice")) == "APPROVAL_REQUIRED"
    ca.clock.advance(DAY)
    begun = await stub.BeginEnrollment(begin)
    assert (begun.kind, begun.epoch) == (keys_pb.KEY_REQUEST_KIND_RESET, 2)
    pair, request = await ca.enroll_request("alice", suite=STRONG, kind=begun.kind)
    record = ca.read((await stub.Enroll(request)).key_info, "alice")
    assert [key.fingerprint for key in record.good_keys(ca.clock())] == [pair.fingerprint]
    assert record.get(alice.fingerprint).reason == keys_pb.REVOCATION_REASON_RESET
    assert record.reset_time == 0


async def test_a_reset_is_called_off(ca: CaUnderTest, alice: DeviceKeyPair) -> None:
    await ca.request_reset("alice")
    request = await ca.cancel_request(alice)
    stub = await ca.devices()
    answers = [ca.read((await stub.CancelReset(request)).key_info, "alice") for _ in range(2)]
    assert [(record.revision, record.reset_time) for record in answers] == [(3, 0)] * 2
    ca.clock.advance(DAY)
    assert await reason(ca.enroll("alice")) == "APPROVAL_REQUIRED"
    kinds = [event.kind for event in await events_after(ca, 1)]
    assert kinds == [keys_pb.KEY_EVENT_KIND_RESET_ANNOUNCED, keys_pb.KEY_EVENT_KIND_RESET_CANCELLED]


async def test_how_long_a_reset_waits_is_a_setting(tmp_path: Path) -> None:
    async with open_ca(tmp_path, reset_delay_hours=2) as ca:
        await ca.enroll("alice")
        announced = await ca.request_reset("alice")
        assert announced.reset_time - announced.current_time == 2 * HOUR


async def test_what_was_announced_and_revoked_stays_so_after_a_restart(tmp_path: Path) -> None:
    async with open_ca(tmp_path) as ca:
        alice = await ca.enroll("alice", suite=STRONG)
        tablet = await ca.approve(alice)
        announced = await ca.request_reset("alice")
        await ca.revoke(tablet, alice)
    async with open_ca(tmp_path) as again:
        record = await again.record("alice")
        assert (record.revision, record.reset_time) == (4, announced.reset_time)
        assert [key.fingerprint for key in record.good_keys(again.clock())] == [alice.fingerprint]
