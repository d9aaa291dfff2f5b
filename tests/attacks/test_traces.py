"""Who has everything that he does recorded, so that the collector of traces is full of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost.tracing import Traces
from keypost_services.delivery.envelopes import Incoming
from keypost_services.delivery.send_stream import Batch
from keypost_services.delivery.sending import Stored
from keypost_services.delivery.tracing import MessageTraces
from keypost_services.runtime.buckets import Buckets
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.method_table import anyone
from keypost_services.runtime.tracing import ServiceTraces
from support.collector import collecting
from support.service import SEND, serving

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MOST = 2
"""A second, and twice as many at once."""


async def test_a_device_that_has_every_call_recorded(tmp_path: Path) -> None:
    with collecting() as collector:
        on: dict[str, Any] = {
            "tracing_endpoint": collector.endpoint,
            "tracing_ratio": 0,
            "tracing_device_traces_per_second": MOST,
        }
        async with (
            serving(tmp_path, methods={SEND: anyone()}, clock=lambda: 0, **on) as service,
            service.public_channel() as channel,
            asyncio.timeout(20),
        ):
            stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
            for _ in range(20):
                await stub.Send(pb.SendRequest(), metadata=(("traceparent", SAMPLED),))
    assert len(collector.spans) <= 2 * MOST


async def test_a_device_that_has_every_message_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    told, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(told))
    service = ServiceTraces(Traces(provider), Buckets(lambda: 0, size=2 * MOST, per_second=MOST), with_usernames=False)
    traces = MessageTraces(service, make_logger("delivery", "info", "json"))

    async def send(batch: Batch) -> list[Any]:
        return [Stored(1, duplicate=False, appends=1)] * len(batch.envelopes)

    envelopes = [Incoming(None, b"", 0, b"", b"") for _ in range(256)]  # type: ignore[arg-type]  # not looked at
    await traces.of_batch(Batch(envelopes, (), [SAMPLED] * 256), send)
    assert len(told.get_finished_spans()) <= 2 * MOST
    assert len(capsys.readouterr().out.splitlines()) <= 2 * MOST
    assert len([one for one in envelopes if one.trace_context]) <= 2 * MOST
