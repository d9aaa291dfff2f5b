"""What delivery tells of messages: of those that their senders record, so many a second, and nothing of others."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.tracing import Traces, trace_id_of
from keypost_services.delivery import convert
from keypost_services.delivery.envelopes import Incoming
from keypost_services.delivery.errors import mailboxes_unavailable
from keypost_services.delivery.mailboxes import MailboxesUnavailableError, Waiting
from keypost_services.delivery.send_stream import Batch
from keypost_services.delivery.sending import Held, Stored
from keypost_services.delivery.tracing import CUT_OFF, MessageTraces
from keypost_services.runtime.buckets import Buckets
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.tracing import ServiceTraces

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STORED = Stored(1, duplicate=False, appends=1)


class World:
    def __init__(self, *, grants: int = 100, on: bool = True) -> None:
        self.told, self.output = InMemorySpanExporter(), io.StringIO()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.told))
        traces = Traces(provider) if on else Traces(on=False)
        wishes = Buckets(lambda: 0, size=grants, per_second=1)
        service = ServiceTraces(traces, wishes, with_usernames=False)
        self.traces = MessageTraces(service, make_logger("delivery", "info", "json", self.output))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    @property
    def failures(self) -> list[str]:
        return [str((span.attributes or {}).get("error.type", "")) for span in self.told.get_finished_spans()]


def incoming() -> Incoming:
    return Incoming(None, b"", 0, b"", b"")  # type: ignore[arg-type]  # nothing of it is looked at


async def test_each_message_that_is_recorded_has_a_span_and_a_line_and_is_stored_under_it() -> None:
    world = World()
    batch = Batch([incoming(), incoming(), incoming()], (), [CONTEXT, "", CONTEXT])

    async def send(_: Batch) -> list[Any]:
        return [STORED, STORED, Held()]

    assert await world.traces.of_batch(batch, send) == [STORED, STORED, Held()]
    spans = world.told.get_finished_spans()
    contexts = [one.trace_context for one in batch.envelopes if isinstance(one, Incoming)]
    assert contexts[1] == ""
    assert [trace_id_of(contexts[0]), trace_id_of(contexts[2])] == [trace_id_of(CONTEXT)] * 2
    assert [f"{span.context.span_id:016x}" for span in spans] == [contexts[0].split("-")[2], contexts[2].split("-")[2]]
    assert world.failures == ["", "HELD"]
    assert [(line["event"], line["outcome"], line["trace_id"]) for line in world.lines] == [
        ("message taken in", outcome, trace_id_of(CONTEXT)) for outcome in ("STORED", "HELD")
    ]


async def test_a_batch_that_is_cut_off_is_told_so() -> None:
    world = World()

    async def send(_: Batch) -> list[Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await world.traces.of_batch(Batch([incoming()], (), [CONTEXT]), send)
    assert world.failures == [CUT_OFF]


async def test_a_refusal_is_told_by_its_reason() -> None:
    world = World()
    refusal = mailboxes_unavailable(MailboxesUnavailableError("secret words"))

    async def send(_: Batch) -> list[Any]:
        return [refusal, refusal]

    # In the place of an envelope that is not well-formed stands why.
    await world.traces.of_batch(Batch([incoming(), refusal], (), [CONTEXT, CONTEXT]), send)
    assert world.failures == ["MAILBOXES_UNAVAILABLE"] * 2


async def test_devices_cannot_have_every_message_recorded() -> None:
    """Attack: every message claims to be part of a trace that is recorded."""
    world = World(grants=3)

    async def send(batch: Batch) -> list[Any]:
        return [STORED] * len(batch.envelopes)

    batch = Batch([incoming() for _ in range(256)], (), [CONTEXT] * 256)
    await world.traces.of_batch(batch, send)
    assert len(world.told.get_finished_spans()) == 3
    assert len([one for one in batch.envelopes if isinstance(one, Incoming) and one.trace_context]) == 3


async def test_a_service_that_records_nothing_keeps_no_context() -> None:
    world, one = World(on=False), incoming()

    async def send(_: Batch) -> list[Any]:
        return [STORED]

    await world.traces.of_batch(Batch([one], (), [CONTEXT]), send)
    with world.traces.pushing([Waiting("1-0", 1, b"", 1, CONTEXT)]) as pushed:
        assert [waiting.trace_context for waiting in pushed] == [""]
    assert one.trace_context == ""


def test_what_is_pushed_follows_from_what_was_stored() -> None:
    world = World()
    found = [Waiting("1-0", 1, b"", 1), Waiting("2-0", 1, b"", 1, CONTEXT)]
    with world.traces.pushing(found) as pushed:
        assert pushed[0] == found[0]
        response = convert.batch(pushed)
    (span,) = world.told.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == CONTEXT.split("-")[2]
    contexts = [delivery.trace_context for delivery in response.batch.deliveries]
    assert contexts == ["", f"00-{trace_id_of(CONTEXT)}-{span.context.span_id:016x}-01"]


def test_a_batch_without_a_trace_is_pushed_as_it_is() -> None:
    found = [Waiting("1-0", 1, b"", 1)]
    with World().traces.pushing(found) as pushed:
        assert pushed is found


@pytest.mark.parametrize("contexts", [[], ["", ""], [CONTEXT, ""], [CONTEXT, CONTEXT]])
def test_contexts_are_as_many_as_envelopes_or_none(contexts: list[str]) -> None:
    request = pb.SendStreamRequest(envelopes=[envelope_pb2.Envelope()] * 2, trace_contexts=contexts)
    assert list(convert.read_trace_contexts(request)) == contexts


@pytest.mark.parametrize(
    ("contexts", "field"),
    [
        ([CONTEXT], "trace_contexts"),
        ([CONTEXT] * 3, "trace_contexts"),
        ([""] * 100_000, "trace_contexts"),
        (["", "x"], "trace_contexts[1]"),
        ([f"{CONTEXT}\n", ""], "trace_contexts[0]"),
        (["", "x" * 100_000], "trace_contexts[1]"),
    ],
)
def test_anything_else_is_refused(contexts: list[str], field: str) -> None:
    request = pb.SendStreamRequest(envelopes=[envelope_pb2.Envelope()] * 2, trace_contexts=contexts)
    with pytest.raises(ServiceError) as refused:
        convert.read_trace_contexts(request)
    assert (refused.value.reason, refused.value.metadata["field"]) == ("INVALID_FIELD", field)
    assert len(refused.value.message) < 200
