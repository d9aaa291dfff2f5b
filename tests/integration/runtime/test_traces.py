"""What a service tells a collector of its calls, over a real socket; and that it is nothing unless it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import SECOND
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.runtime.method_table import anyone, services
from keypost_services.runtime.tracing import FAREWELL_SECONDS, MOST_SPANS_WAITING, open_traces
from support.clock import ManualClock
from support.collector import collecting
from support.service import RECEIVE, SEND, error_info, serving, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.collector import Collector
    from support.service import ServiceUnderTest

HEALTH = "/grpc.health.v1.Health/Check"
OPEN = {SEND: anyone(), RECEIVE: anyone(), HEALTH: anyone()}
NAME = SEND.removeprefix("/")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@contextlib.asynccontextmanager
async def open_service(folder: Path, **options: Any) -> AsyncIterator[tuple[ServiceUnderTest, Any]]:
    async with (
        serving(folder, **{"methods": OPEN, **options}) as service,
        service.public_channel() as channel,
        asyncio.timeout(20),
    ):
        yield service, delivery_service_pb2_grpc.DeliveryServiceStub(channel)


def _raw(channel: grpc.aio.Channel) -> Any:
    """Return the channel for calls whose messages are bytes as they are."""
    return channel


async def test_a_call_is_told_and_its_log_line_leads_to_it(tmp_path: Path, collector: Collector) -> None:
    async with open_service(tmp_path, tracing_endpoint=collector.endpoint, tracing_ratio=1) as (service, stub):
        await stub.Send(pb.SendRequest())
    (span,) = collector.spans
    assert (span.service, span.name, span.kind, span.parent_id) == ("keypost-delivery", NAME, "SERVER", "")
    assert span.facts == {"rpc.system.name": "grpc", "rpc.method": NAME, "rpc.response.status_code": "OK"}
    (line,) = service.events("call")
    assert (line["trace_id"], line["span_id"]) == (span.trace_id, span.span_id)


async def test_it_is_part_of_the_trace_that_the_caller_began(tmp_path: Path, collector: Collector) -> None:
    async with open_service(tmp_path, tracing_endpoint=collector.endpoint, tracing_ratio=0) as (service, stub):
        await stub.Send(pb.SendRequest(), metadata=(("traceparent", SAMPLED),))
        await stub.Send(pb.SendRequest(), metadata=(("traceparent", UNSAMPLED),))
        await stub.Send(pb.SendRequest())
    (span,) = collector.spans
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert [line.get("trace_id") == TRACE for line in service.events("call")] == [True, True, False]


@pytest.mark.parametrize(
    "said", ["", "x", SAMPLED.upper(), SAMPLED[:-1], f"{SAMPLED}-x", f"01{SAMPLED[2:]}", f"00-{'0' * 32}-{PARENT}-01"]
)
async def test_a_context_that_is_none_begins_another_trace(tmp_path: Path, collector: Collector, said: str) -> None:
    async with open_service(tmp_path, tracing_endpoint=collector.endpoint, tracing_ratio=1) as (_, stub):
        await stub.Send(pb.SendRequest(), metadata=(("traceparent", said),))
    (span,) = collector.spans
    assert span.trace_id != TRACE
    assert span.parent_id == ""


async def test_without_a_collector_nothing_is_told_but_the_log_knows_the_callers_trace(
    tmp_path: Path, collector: Collector
) -> None:
    async with open_service(tmp_path) as (service, stub):
        await stub.Send(pb.SendRequest(), metadata=(("traceparent", SAMPLED),))
        await stub.Send(pb.SendRequest())
    assert not collector.raw
    first, second = service.events("call")
    assert (first["trace_id"], "span_id" in first, "trace_id" in second) == (TRACE, False, False)


async def test_devices_cannot_have_everything_recorded(tmp_path: Path, collector: Collector) -> None:
    """Attack: each call claims to be part of a trace that is recorded."""
    clock = ManualClock()
    on = {"tracing_endpoint": collector.endpoint, "tracing_ratio": 0, "tracing_device_traces_per_second": 2}
    async with open_service(tmp_path, clock=clock, **on) as (_, stub):
        for _ in range(20):
            await stub.Send(pb.SendRequest(), metadata=(("traceparent", SAMPLED),))
        clock.now += SECOND
        for _ in range(20):
            await stub.Send(pb.SendRequest(), metadata=(("traceparent", SAMPLED),))
    assert len(collector.spans) == 4 + 2


async def test_a_service_is_believed(tmp_path: Path, collector: Collector) -> None:
    on = {"tracing_endpoint": collector.endpoint, "tracing_ratio": 0, "tracing_device_traces_per_second": 0.1}
    async with open_service(tmp_path, methods={SEND: services("directory")}, **on) as (service, _):
        folder = tmp_path / "directory"
        pems = (folder / "internal.pem").read_bytes(), (folder / "internal.key").read_bytes()
        async with service.internal_channel(*pems) as channel:
            stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
            for _ in range(5):
                await stub.Send(pb.SendRequest(), metadata=(("traceparent", SAMPLED),))
    assert len(collector.spans) == 5
    assert not [span for span in collector.spans if "user.name" in span.facts]


async def test_callers_are_named_if_the_operator_wants_it(tmp_path: Path, collector: Collector) -> None:
    on = {"tracing_endpoint": collector.endpoint, "tracing_ratio": 1, "tracing_usernames": True}
    async with open_service(tmp_path, methods={SEND: services("directory")}, **on) as (service, _):
        folder = tmp_path / "directory"
        pems = (folder / "internal.pem").read_bytes(), (folder / "internal.key").read_bytes()
        async with service.internal_channel(*pems) as channel:
            await delivery_service_pb2_grpc.DeliveryServiceStub(channel).Send(pb.SendRequest())
    assert [span.facts["user.name"] for span in collector.spans] == [service.events("call")[0]["caller"]]


async def test_a_failure_is_told_by_its_reason_alone(tmp_path: Path, collector: Collector) -> None:
    secret = "the words of an exception"

    async def fail(_request: Any, _context: Any) -> Any:
        raise RuntimeError(secret)

    async with open_service(tmp_path, tracing_endpoint=collector.endpoint, tracing_ratio=1) as (service, stub):
        service.servicer.on_send = fail
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Send(pb.SendRequest())
    (span,) = collector.spans
    assert span.failed
    assert (span.facts["error.type"], span.facts["rpc.response.status_code"]) == ("INTERNAL", "INTERNAL")
    assert secret.encode() not in b"".join(collector.raw)


async def test_streams_and_probes_have_no_span(tmp_path: Path, collector: Collector) -> None:
    async with open_service(tmp_path, tracing_endpoint=collector.endpoint, tracing_ratio=1) as (service, stub):
        async for _ in stub.Receive(iter([pb.ReceiveRequest()]), metadata=(("traceparent", SAMPLED),)):
            pass
        async with service.public_channel() as channel:
            await _raw(channel).unary_unary(HEALTH)(b"")
    assert not collector.spans
    assert service.events("call")[0]["trace_id"] == TRACE


async def test_a_collector_that_is_not_there_costs_no_call_and_little_at_the_end(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with open_service(tmp_path, tracing_endpoint=endpoint, tracing_ratio=1) as (_, stub):
            for _ in range(20):
                await stub.Send(pb.SendRequest(), timeout=5)
            ended = time.monotonic()
    assert time.monotonic() - ended < FAREWELL_SECONDS + 3


async def test_a_collector_that_says_nothing_is_not_waited_for_and_the_queue_is_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path):
        pass
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = settings_for(tmp_path, tracing_endpoint=endpoint, tracing_ratio=1)
        async with open_traces("delivery", settings, lambda: 0, lambda: "1") as traces:
            for _ in range(3 * MOST_SPANS_WAITING):
                traces.traces.begin("x", "SERVER").end()
            processor = traces.traces._tracer.span_processor._span_processors[0]._batch_processor
            assert len(processor._queue) <= MOST_SPANS_WAITING
            ended = time.monotonic()
        assert time.monotonic() - ended < FAREWELL_SECONDS + 1


async def test_the_last_spans_go_out_when_the_service_ends(tmp_path: Path, collector: Collector) -> None:
    async with serving(tmp_path):
        pass
    settings = settings_for(tmp_path, tracing_endpoint=collector.endpoint, tracing_ratio=1)
    async with open_traces("delivery", settings, lambda: 0, lambda: "1") as traces:
        for _ in range(1000):
            traces.traces.begin("x", "SERVER").end()
    assert len(collector.spans) == 1000


async def test_whoever_calls_is_told_the_id_of_the_request(tmp_path: Path) -> None:
    async def fail(_request: Any, _context: Any) -> Any:
        raise RuntimeError

    async with open_service(tmp_path) as (service, stub):
        call = stub.Send(pb.SendRequest(), metadata=(("x-request-id", "abc-1"),))
        await call
        stream = stub.Receive(iter([pb.ReceiveRequest()]))
        async for _ in stream:
            pass
        told = [dict(await one.trailing_metadata())["x-request-id"] for one in (call, stream)]
        service.servicer.on_send = fail
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Send(pb.SendRequest())
    assert error_info(failed.value).reason == "INTERNAL"
    told.append(dict(failed.value.trailing_metadata())["x-request-id"])
    assert told[0] == "abc-1"
    assert told == [line["request_id"] for line in service.events("call")]
