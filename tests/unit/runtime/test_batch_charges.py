"""A stream takes what its batches cost in one question each, and waits where a call would be refused."""

from __future__ import annotations

import pytest

from keypost.clock import MINUTE, SECOND
from keypost.protocol.identifiers import Address
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.limits.batches import BatchCharges, batch_charges
from keypost_services.runtime.limits.call_limits import CallLimits
from keypost_services.runtime.limits.table import METHOD_LIMITS
from support.clock import ManualClock
from support.limits import local_limits
from support.realm import device_id

DELIVERY = "/keypost.delivery.v1.DeliveryService/"
SEND, STREAM = f"{DELIVERY}Send", f"{DELIVERY}SendStream"
DEVICE = Caller(CallerKind.DEVICE, "ipv4:192.0.2.1:4711", Address("alice", device_id(1)))


class Bench:
    """Limits on a clock that goes on while a stream waits."""

    def __init__(self, text: str) -> None:
        self.clock = ManualClock()
        self.pauses: list[float] = []
        self.limits = CallLimits(local_limits(self.clock, text), METHOD_LIMITS, self.clock)

    async def stream(self) -> BatchCharges:
        async with self.limits.counting(STREAM, DEVICE):
            await self.limits.admit(STREAM, DEVICE, None)
            charges = batch_charges()
        charges._sleep = self.sleep
        return charges

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(round(seconds * SECOND))

    async def send(self) -> str:
        try:
            await self.limits.admit(SEND, DEVICE, None)
        except ServiceError as error:
            return error.reason
        return ""


async def test_a_batch_costs_what_its_envelopes_cost_one_by_one() -> None:
    bench = Bench("Send=10/1m")
    await (await bench.stream()).take(9)
    assert [await bench.send() for _ in range(2)] == ["", "RATE_LIMITED"]
    assert not bench.pauses


async def test_a_batch_over_the_quota_waits_until_it_is_there() -> None:
    bench = Bench("Send=60/1m")
    stream, begun = await bench.stream(), bench.clock()
    for _ in range(4):
        await stream.take(30)
    assert bench.clock() - begun == pytest.approx(MINUTE, abs=2 * SECOND)
    assert max(bench.pauses) <= 1


async def test_two_streams_of_a_device_share_its_quota() -> None:
    bench = Bench("Send=10/1m")
    await (await bench.stream()).take(10)
    await (await bench.stream()).take(1)
    assert bench.pauses


async def test_what_has_no_envelopes_costs_one() -> None:
    bench = Bench("Send=3/1d")
    stream = await bench.stream()
    for _ in range(3):
        await stream.take(0)
    assert await bench.send() == "RATE_LIMITED"


async def test_users_that_do_not_exist_end_the_stream_and_are_not_waited_for() -> None:
    bench = Bench("unknown_users=2/1d")
    stream = await bench.stream()
    await stream.unknown("nobody")
    with pytest.raises(ServiceError, match="users asked for who do not exist"):
        await stream.unknown("nobody else")
    with pytest.raises(ServiceError, match="users asked for who do not exist"):
        await stream.take(1)
    assert not bench.pauses


async def test_without_limits_nothing_is_taken() -> None:
    bench = Bench("Send=none,unknown_users=none")
    stream = await bench.stream()
    await stream.take(1_000_000)
    await stream.unknown("nobody")
    assert not bench.pauses


def test_batches_belong_to_a_stream_that_takes_them() -> None:
    with pytest.raises(LookupError):
        batch_charges()
