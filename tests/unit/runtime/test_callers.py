from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import StatusCode

from keypost.protocol.identifiers import Address
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.callers import VerifiedCallers
from keypost_services.runtime.errors import ServiceError, token_refused
from support.clock import ManualClock

ANYONE = Caller(CallerKind.ANYONE, "ipv4:127.0.0.1:1")
SERVICE = Caller(CallerKind.SERVICE, "ipv4:127.0.0.1:1", service="directory")
DEVICE = Caller(CallerKind.DEVICE, "ipv4:127.0.0.1:1", Address("alice", "a" * 16), expire_time=ManualClock()() + 5)


async def well(_caller: Caller) -> None:
    return None


async def forever() -> None:
    await asyncio.Event().wait()


async def reason(callers: VerifiedCallers, caller: Caller, check: Any = well) -> str:
    async with asyncio.timeout(5):
        with pytest.raises(ServiceError) as caught:
            await callers.run_stream(caller, forever(), check)
    return caught.value.reason


async def test_a_stream_that_is_done_is_done() -> None:
    callers = VerifiedCallers(ManualClock(), stream_seconds=60)

    async def answer() -> int:
        return 7

    async def fail() -> None:
        raise KeyError("x")

    assert await callers.run_stream(ANYONE, answer(), well) == 7
    with pytest.raises(KeyError):
        await callers.run_stream(ANYONE, fail(), well)


async def test_a_stream_expires_unless_it_is_a_services() -> None:
    callers = VerifiedCallers(ManualClock(), stream_seconds=0.01, check_again_ms=3)
    assert await reason(callers, ANYONE) == "STREAM_EXPIRED"
    assert await reason(callers, DEVICE) == "STREAM_EXPIRED"
    checks = 0

    async def count(_caller: Caller) -> None:
        nonlocal checks
        checks += 1
        if checks == 10:
            callers.end_streams()

    assert await reason(callers, SERVICE, count) == "SHUTTING_DOWN"


@pytest.mark.parametrize(
    "error", [token_refused("KEY_REVOKED"), ServiceError(StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE", "away")]
)
async def test_a_caller_who_is_looked_at_again_may_go_on_no_longer(error: ServiceError) -> None:
    callers = VerifiedCallers(ManualClock(), stream_seconds=60, check_again_ms=3)

    async def check(caller: Caller) -> None:
        assert caller is DEVICE
        raise error

    assert await reason(callers, DEVICE, check) == error.reason


async def test_a_check_that_breaks_ends_the_stream() -> None:
    callers = VerifiedCallers(ManualClock(), stream_seconds=60, check_again_ms=3)

    async def check(_caller: Caller) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await reason(callers, DEVICE, check)


async def test_a_caller_is_not_remembered_beyond_the_token() -> None:
    clock = ManualClock()
    callers = VerifiedCallers(clock, stream_seconds=60)
    callers.remember(b"x", DEVICE)
    assert callers.find(b"x") is DEVICE
    clock.advance(5)
    assert callers.find(b"x") is None


async def test_only_so_many_callers_are_remembered() -> None:
    callers = VerifiedCallers(ManualClock(), stream_seconds=60, most=2)
    for name in (b"x", b"y", b"z"):
        callers.remember(name, DEVICE)
    assert callers.find(b"x") is None
    assert callers.find(b"z") is DEVICE
