from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from keypost.protocol.identifiers import Address
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.callers import VerifiedCallers
from keypost_services.runtime.errors import ServiceError, token_refused
from support.clock import ManualClock
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from keypost.protocol.key_info import Key

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


async def test_a_caller_is_looked_at_again_when_its_record_lapses() -> None:
    clock = ManualClock()
    callers, seen = VerifiedCallers(clock, stream_seconds=60), 0

    async def check(_caller: Caller) -> int:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise token_refused("KEY_REVOKED")
        return clock() + 5

    assert await reason(callers, DEVICE, check) == "TOKEN_REFUSED"


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


def device(username: str) -> tuple[Caller, Key]:
    """Return a device that calls, and its key."""
    realm = SimulatedRealm(clock=ManualClock())
    pair = realm.enroll(username)
    key = realm.key_record(username).get(pair.fingerprint)
    return Caller(CallerKind.DEVICE, "ipv4:127.0.0.1:1", pair.address, key), key


class Checks:
    """Looks at callers: says whose turn it was, and refuses whom a test names."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[str] = asyncio.Queue()
        self.refused = ""
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, caller: Caller) -> None:
        assert caller.address is not None
        self.seen.put_nowait(caller.address.username)
        await self.held.wait()
        if caller.address.username == self.refused:
            raise token_refused("KEY_SUPERSEDED")


async def test_a_key_event_between_admission_and_the_stream_is_not_missed() -> None:
    callers, checks, (alice, key) = VerifiedCallers(ManualClock(), stream_seconds=60), Checks(), device("alice")
    callers.drop_key(key.fingerprint)  # no stream is there yet that it could end
    checks.refused = "alice"
    assert await reason(callers, alice, checks) == "TOKEN_REFUSED"


async def test_in_doubt_every_device_is_looked_at_again_at_once_and_who_is_good_goes_on() -> None:
    callers, checks = VerifiedCallers(ManualClock(), stream_seconds=60), Checks()
    (alice, _), (bob, _) = device("alice"), device("bob")
    callers.remember(b"x", alice)
    ended, stays = (asyncio.create_task(callers.run_stream(who, forever(), checks)) for who in (alice, bob))
    async with asyncio.timeout(5):
        assert {await checks.seen.get(), await checks.seen.get()} == {"alice", "bob"}
        checks.refused = "alice"
        callers.doubt_all()
        assert callers.find(b"x") is None
        assert {await checks.seen.get(), await checks.seen.get()} == {"alice", "bob"}
        with pytest.raises(ServiceError, match="key superseded"):
            await ended
        callers.doubt_all()
        assert await checks.seen.get() == "bob"
        assert not stays.done()
        callers.end_streams()
        with pytest.raises(ServiceError, match="shutting down"):
            await stays


async def test_a_doubt_while_a_caller_is_looked_at_has_it_looked_at_once_more() -> None:
    callers, checks, (alice, _) = VerifiedCallers(ManualClock(), stream_seconds=60), Checks(), device("alice")
    checks.held.clear()
    ended = asyncio.create_task(reason(callers, alice, checks))
    async with asyncio.timeout(5):
        await checks.seen.get()
        callers.doubt_all()
        checks.held.set()
        await checks.seen.get()
        checks.refused = "alice"
        callers.doubt_all()
        assert await ended == "TOKEN_REFUSED"


async def test_an_end_does_not_wait_for_a_look_that_takes_long() -> None:
    callers, checks, (alice, _) = VerifiedCallers(ManualClock(), stream_seconds=60), Checks(), device("alice")
    checks.held.clear()
    ended = asyncio.create_task(reason(callers, alice, checks))
    async with asyncio.timeout(5):
        await checks.seen.get()
        callers.drop_user("alice")
        assert await ended == "TOKEN_REFUSED"
