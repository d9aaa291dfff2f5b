"""Limits of real services over a real Valkey: shared by replicas, and with the server killed, stalled and lied to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import ca_service_pb2_grpc
from keypost.clock import DAY, MINUTE
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.runtime.limits import table
from keypost_services.runtime.limits.limiter_redis import RedisLimiter
from keypost_services.runtime.limits.ports import Charge, LimitsAwayError, Quota
from keypost_services.runtime.method_table import anyone
from keypost_services.runtime.redis import redis_client
from support.clock import ManualClock
from support.example_process import started
from support.service import RECEIVE, SEND, error_info, retry_after_ms, serving
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from pathlib import Path

    from support.service import ServiceUnderTest

TABLES: dict[str, Any] = {
    "methods": {SEND: anyone(), RECEIVE: anyone()},
    "method_limits": {SEND: table.anyone("Renew"), RECEIVE: table.anyone("Receive")},
}
STRICT: dict[str, Any] = {"methods": {SEND: anyone()}, "method_limits": {SEND: table.anyone_strictly("Enroll")}}
FEW = {"limits": "Renew=3/1d,Receive=2/1d,Enroll=3/1d"}
QUOTA = Quota(3, DAY)
ASKED = "keypost_limits_seconds_count"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey") as server:
        yield server


@contextlib.asynccontextmanager
async def limited(
    folder: Path, valkey: ValkeyServer | None, tables: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[tuple[ServiceUnderTest, Any]]:
    """Serve with few calls for everybody, and with a limits server that is not waited for long."""
    urls = {"limits_url": valkey.url} if valkey else {}
    options = {"limits_timeout_seconds": 1, **urls, **FEW, **(tables or TABLES), **changes}
    async with (
        serving(folder, **options) as service,
        service.public_channel() as channel,
        asyncio.timeout(20),
    ):
        yield service, delivery_service_pb2_grpc.DeliveryServiceStub(channel)


async def reason(call: Awaitable[Any]) -> str:
    """Return the reason of a refusal, "" if there is none."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error_info(error).reason)
    return ""


async def sends(stub: Any, number: int) -> list[str]:
    return [await reason(stub.Send(pb.SendRequest())) for _ in range(number)]


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def metric(service: ServiceUnderTest, name: str, **labels: str) -> float:
    return service.running.runtime.metrics.get_sample_value(name, labels) or 0.0


async def test_the_refusal_says_when_to_try_again_and_is_counted(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with limited(tmp_path, valkey) as (service, stub):
        await sends(stub, 3)
        caught = await failure(stub.Send(pb.SendRequest()))
        assert metric(service, "keypost_limits_refused_total", limit="Renew") == 1
        assert metric(service, ASKED) == 4
    assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert DAY // 3 - MINUTE < (retry_after_ms(caught) or 0) <= DAY // 3
    assert caught.details() == "too many calls of Send: try again in 480 min"


async def test_the_work_is_not_done_for_who_is_refused_and_rubbish_is_not_free(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    served = 0

    async def serve(*_: Any) -> pb.SendResponse:
        nonlocal served
        served += 1
        return pb.SendResponse()

    async with limited(tmp_path, valkey) as (service, stub), service.public_channel() as channel:
        service.servicer.on_send = serve
        rubbish: Any = channel.unary_unary(SEND)
        assert await reason(rubbish(b"\xff")) == "INVALID_FIELD"
        assert await sends(stub, 4) == ["", "", "RATE_LIMITED", "RATE_LIMITED"]
        assert await reason(rubbish(b"\xff")) == "RATE_LIMITED"
    assert served == 2


async def test_a_stream_costs_one_when_it_is_opened(tmp_path: Path, valkey: ValkeyServer) -> None:
    async def open_one(stub: Any) -> str:
        stream = stub.Receive()
        with contextlib.suppress(asyncio.InvalidStateError):
            await stream.write(pb.ReceiveRequest())
        answer = await reason(stream.read())
        stream.cancel()
        return answer

    async with limited(tmp_path, valkey) as (_, stub):
        assert [await open_one(stub) for _ in range(3)] == ["", "", "RATE_LIMITED"]


async def test_replicas_share_what_there_is(tmp_path: Path, valkey: ValkeyServer) -> None:
    """Two processes, each asked ten times: together they serve five."""
    settings = {"BEHAVIOUR": "answer", "LIMITS": "GetRealmTrust=5/1d", "LIMITS_URL": valkey.url}
    settings["LIMITS_TIMEOUT_SECONDS"] = "5"
    async with (
        started(tmp_path / "one", **settings) as one,
        started(tmp_path / "two", **settings) as two,
        await one.channel() as to_one,
        await two.channel() as to_two,
    ):
        stubs = [ca_service_pb2_grpc.CertificateAuthorityServiceStub(channel) for channel in (to_one, to_two)]
        calls = [stub.GetRealmTrust(ca_pb.GetRealmTrustRequest()) for _ in range(10) for stub in stubs]
        reasons = await asyncio.gather(*(reason(call) for call in calls))
    assert (reasons.count(""), reasons.count("RATE_LIMITED")) == (5, 15)


async def test_without_a_server_each_process_counts_for_itself_and_says_so_once(tmp_path: Path) -> None:
    async with limited(tmp_path, None) as (service, stub):
        assert await sends(stub, 4) == ["", "", "", "RATE_LIMITED"]
        [line] = service.events("limits_of_this_process_alone")
        assert line["why"].startswith("LIMITS_URL is not set")
    async with limited(tmp_path, None, STRICT) as (_, stub):
        assert await sends(stub, 4) == ["", "", "", "RATE_LIMITED"]


async def test_with_the_server_gone_calls_are_counted_here_until_it_is_back(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    clock = ManualClock()
    async with limited(tmp_path, valkey, clock=clock) as (service, stub):
        assert await sends(stub, 2) == ["", ""]
        valkey.kill()
        # Here there is a full quota of its own.
        assert await sends(stub, 4) == ["", "", "", "RATE_LIMITED"]
        health = service.running.runtime.health
        assert health.degraded == {"limits": "Redis: ConnectionError"}
        assert health.serving
        assert metric(service, "keypost_limits_away_total", instead="local") == 4
        assert [line["part"] for line in service.events("degraded")] == ["limits"]
        valkey.start()
        clock.advance(1_000)
        assert await sends(stub, 4) == ["", "", "", "RATE_LIMITED"]
        assert health.degraded == {}
        assert [line["part"] for line in service.events("recovered")] == ["limits"]


async def test_with_the_server_gone_what_could_be_guessed_by_is_refused(tmp_path: Path, valkey: ValkeyServer) -> None:
    clock = ManualClock()
    async with limited(tmp_path, valkey, STRICT, clock=clock) as (service, stub):
        assert await sends(stub, 1) == [""]
        valkey.kill()
        caught = await failure(stub.Send(pb.SendRequest()))
        assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.UNAVAILABLE, "LIMITS_UNAVAILABLE")
        assert retry_after_ms(caught) == 2_000
        assert set(service.running.runtime.health.degraded) == {"limits"}
        assert metric(service, "keypost_limits_away_total", instead="refused") == 1
        valkey.start()
        clock.advance(1_000)
        assert await sends(stub, 1) == [""]


async def test_a_server_that_hangs_holds_up_one_call_in_a_while(tmp_path: Path, valkey: ValkeyServer) -> None:
    clock = ManualClock()
    changes = {"limits_timeout_seconds": 0.05, "limits": "Renew=none", "clock": clock}
    rows = {"method_limits": {SEND: table.anyone("GetRealmTrust")}}
    async with limited(tmp_path, valkey, {**TABLES, **rows}, **changes) as (service, stub):
        await send_until_well(service, stub, clock)
        valkey.freeze()
        before = metric(service, ASKED)
        assert set(await sends(stub, 50)) == {""}
        assert metric(service, ASKED) == before + 1
        clock.advance(1_000)
        assert set(await sends(stub, 50)) == {""}
        assert metric(service, ASKED) == before + 2
        valkey.thaw()
        await send_until_well(service, stub, clock)


async def send_until_well(service: ServiceUnderTest, stub: Any, clock: ManualClock) -> None:
    """Send until the limits' server has answered in time: its 50 ms are short on a machine that has more to do."""
    async with asyncio.timeout(60):
        while True:
            clock.advance(1_000)
            assert await sends(stub, 1) == [""]
            if not service.running.runtime.health.degraded:
                return


async def test_a_server_that_restarts_empty_is_taught_the_script_again(valkey: ValkeyServer) -> None:
    async with redis_client(valkey.url) as redis:
        limiter = RedisLimiter(redis, realm="example.org", timeout_ms=5_000)
        charge = Charge("calls", "alice", QUOTA)
        assert await limiter.take([charge]) is None
        await redis.flushall()
        await redis.script_flush()
        assert [await limiter.take([charge]) for _ in range(3)] == [None] * 3
        assert await limiter.take([charge]) is not None


@pytest.mark.parametrize("value", [b"", b"x", b"nan", b"inf", b"1e300", b"-1", b"9" * 400, b"9" * 16, b"0x10"])
async def test_whatever_stands_in_redis_closes_nothing_for_longer_than_a_debt(
    valkey: ValkeyServer, value: bytes
) -> None:
    async with redis_client(valkey.url) as redis:
        limiter = RedisLimiter(redis, realm="example.org", timeout_ms=5_000)
        charge = Charge("calls", "alice", Quota(1, 30))
        await redis.set(f"kl:example.org:{charge.bucket}", value)
        shortage = await limiter.take([charge])
        assert shortage is None or shortage.retry_after_ms <= 60
        assert 0 < await redis.pttl(f"kl:example.org:{charge.bucket}") <= 60


async def test_a_value_of_another_type_is_overwritten(valkey: ValkeyServer) -> None:
    async with redis_client(valkey.url) as redis:
        limiter = RedisLimiter(redis, realm="example.org", timeout_ms=5_000)
        charge = Charge("calls", "alice", QUOTA)
        await redis.lpush(f"kl:example.org:{charge.bucket}", "x")
        assert [await limiter.take([charge]) for _ in range(3)] == [None] * 3
        assert await limiter.take([charge]) is not None


async def test_every_key_has_a_lifetime_and_a_name_that_tells_nobody_anything(valkey: ValkeyServer) -> None:
    async with redis_client(valkey.url) as redis:
        limiter = RedisLimiter(redis, realm="example.org", timeout_ms=5_000)
        callers = ["alice/abc", "x" * 100_000, "kl:*\r\nFLUSHALL\r\n"]
        await limiter.take([Charge("calls", caller, QUOTA) for caller in callers])
        await limiter.book([Charge("unknown_users", "alice/abc", QUOTA, 100)])
        keys: list[Any] = await redis.keys("*")
        assert len(keys) == 4
        for key in keys:
            assert key.startswith(b"kl:example.org:")
            assert len(key) == len(b"kl:example.org:") + 32
            assert 0 < await redis.pttl(key) <= 2 * DAY


async def test_what_the_server_cannot_write_is_a_server_that_is_away(valkey: ValkeyServer) -> None:
    async with redis_client(valkey.url) as redis:
        limiter = RedisLimiter(redis, realm="example.org", timeout_ms=5_000)
        await redis.config_set("maxmemory", "1")
        with pytest.raises(LimitsAwayError, match="OutOfMemoryError"):
            await limiter.take([Charge("calls", "alice", QUOTA)])
