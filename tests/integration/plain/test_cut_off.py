"""A revoked device between real services: how soon it is out, with key events and without."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from keypost.clock import HOUR
from keypost.delivery.v1 import delivery_service_pb2 as delivery_pb
from keypost.directory.v1 import directory_service_pb2 as directory_pb
from keypost.keys.v1 import key_info_pb2
from keypost_services.ca.store_sql import SqlStore
from support.ca_service import REALM
from support.delivery import until
from support.plain_client import reason
from support.plain_stack import plain_stack
from support.refusals import raised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.ca.store import Event
    from support.plain_client import PlainDevice
    from support.plain_stack import PlainStack

__all__ = ["plain_stack"]

DELETED = "keypost_delivery_deleted_total"
COMPROMISED = key_info_pb2.REVOCATION_REASON_COMPROMISED
LITTLE = 200
"""Milliseconds that are left of a record."""


@dataclass
class Household:
    """Alice with a phone and a tablet that was stolen, both known to all services; a message waits for both."""

    stack: PlainStack
    phone: PlainDevice
    tablet: PlainDevice
    bob: PlainDevice

    async def look_up(self, device: PlainDevice) -> None:
        """Look a user up at the directory."""
        assert device.directory is not None
        request = directory_pb.GetKeyInfoRequest(username="bob")
        metadata = device.metadata(device.token(aud=f"{REALM}/directory"))
        await device.directory.GetKeyInfo(request, metadata=metadata, timeout=20)

    async def receive(self, device: PlainDevice) -> Any:
        """Open a stream, and return it once the first envelopes have come."""
        call: Any = device.delivery.Receive(metadata=device.metadata())
        await call.write(delivery_pb.ReceiveRequest(start=delivery_pb.Start()))
        assert await call.read() is not grpc.aio.EOF
        return call

    async def revoke(self, **changes: Any) -> None:
        await self.stack.ca.revoke(self.tablet.pair, self.phone.pair, **changes)


@pytest.fixture
async def household(plain_stack: PlainStack) -> Household:
    phone, bob = await plain_stack.enroll("alice"), await plain_stack.enroll("bob")
    tablet = await plain_stack.device(await plain_stack.ca.approve(phone.pair))
    made = Household(plain_stack, phone, tablet, bob)
    await bob.send("alice", "waits for both")
    for device in (phone, tablet):
        await made.look_up(device)
        await device.send("bob", "known to all services")
    return made


async def end_of(stream: Any) -> str:
    """Return why a stream ends; whatever else comes before is passed over."""
    return await reason(_read_on(stream))


async def _read_on(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def refused_at_last(household: Household, device: PlainDevice) -> str:
    """Return why the directory refuses a device, once it does, which nothing announces."""
    while True:
        (failure,) = await asyncio.gather(household.look_up(device), return_exceptions=True)
        if failure is not None:
            return await reason(raised(failure))


async def test_with_events_a_revoked_device_is_out_within_a_second(household: Household) -> None:
    stream = await household.receive(household.tablet)
    loop = asyncio.get_running_loop()
    revocation = await household.stack.ca.revoke_request(household.tablet.pair, household.phone.pair)
    stub = await household.stack.ca.devices()
    begun = loop.time()
    async with asyncio.timeout(20):
        await stub.Revoke(revocation)
        ended = await end_of(stream)
        refused = await refused_at_last(household, household.tablet)
    seconds = loop.time() - begun
    assert (ended, refused) == ("TOKEN_REFUSED", "TOKEN_REFUSED")
    assert await reason(household.receive(household.tablet)) == "TOKEN_REFUSED"
    assert seconds < 1, f"it took {seconds:.3f} s"
    metrics = household.stack.delivery.runtime.metrics
    await until(lambda: metrics.get_sample_value(DELETED) == 1)
    assert await household.receive(household.phone), "the other device has its own mailbox"


async def test_with_events_all_that_a_thief_brought_in_is_out_too(household: Household) -> None:
    ca = household.stack.ca
    since = ca.clock()
    ca.clock.advance(1)
    accomplice = await household.stack.device(await ca.approve(household.tablet.pair))
    await household.bob.send("alice", "to all three")
    stream = await household.receive(accomplice)
    await household.revoke(reason=COMPROMISED, since_time=since)
    assert await end_of(stream) == "TOKEN_REFUSED"
    async with asyncio.timeout(20):
        assert await refused_at_last(household, accomplice) == "TOKEN_REFUSED"
    metrics = household.stack.delivery.runtime.metrics
    await until(lambda: metrics.get_sample_value(DELETED) == 3)


async def nothing(_store: SqlStore, _after_sequence: int, _limit: int) -> Sequence[Event]:
    """Tell watchers of the CA that it is there, and of nothing that happens."""
    return []


async def test_without_events_a_revoked_device_is_out_at_the_end_of_the_record_lifetime(
    household: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqlStore, "list_events", nothing)
    await household.revoke()
    await household.look_up(household.tablet)
    (await household.receive(household.tablet)).cancel()
    household.stack.ca.clock.advance(HOUR)
    assert await reason(household.look_up(household.tablet)) == "TOKEN_REFUSED"
    assert await reason(household.receive(household.tablet)) == "TOKEN_REFUSED"
    metrics = household.stack.delivery.runtime.metrics
    await until(lambda: metrics.get_sample_value(DELETED) == 1)
    await household.look_up(household.phone)


async def test_without_events_an_open_stream_ends_with_the_record_that_it_rests_on(
    household: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqlStore, "list_events", nothing)
    await household.revoke()
    # Not all of the lifetime at once: a stream waits for the end of its record by a timer, which knows no other clock.
    household.stack.ca.clock.advance(HOUR - LITTLE)
    ends, stays = await household.receive(household.tablet), await household.receive(household.phone)
    household.stack.ca.clock.advance(LITTLE)
    async with asyncio.timeout(20):
        assert await end_of(ends) == "TOKEN_REFUSED"
    await household.bob.send("alice", "still heard")
    assert await stays.read() is not grpc.aio.EOF
