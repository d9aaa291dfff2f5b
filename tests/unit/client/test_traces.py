"""The trace of a message: handed on beside its envelope, kept in the outbox, gone on with where it is received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from keypost.errors import RefusedError
from keypost.tracing import is_context, trace_id_of
from support.people import FOR_EVER, IMPATIENT
from support.simulation import failing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from support.simulation import Services

AWAY = failing(grpc.StatusCode.UNAVAILABLE, "MAILBOXES_UNAVAILABLE")
FULL = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Application:
    """What an application around the SDK sets up."""

    def __init__(self) -> None:
        self.told = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.told))

    def spans(self, name: str) -> Sequence[ReadableSpan]:
        return [span for span in self.told.get_finished_spans() if span.name.endswith(name)]


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def alice(open_client: Any, application: Application) -> Any:
    person = await open_client("alice", tracer_provider=application.provider, retries=IMPATIENT)
    await person.client.enroll("alice")
    application.told.clear()
    return person


def ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def parent(span: ReadableSpan) -> tuple[int, int]:
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


def read(context: str) -> tuple[int, int]:
    return int(trace_id_of(context), 16), int(context.split("-")[2], 16)


async def test_a_message_is_recorded_from_send_on(
    alice: Any, bob: Any, services: Services, application: Application
) -> None:
    assert bob
    await alice.client.send("bob", "hello")
    (send,), (handed,) = application.spans("keypost send"), application.spans("SendStream")
    (looked_up,) = application.spans("GetKeyInfo")
    assert parent(handed) == parent(looked_up) == ids(send)
    (context,) = services.batches[-1].trace_contexts
    assert read(context) == ids(handed)
    assert not {span.attributes.get("error.type") for span in (send, handed) if span.attributes} - {None}


async def test_it_follows_from_what_the_application_does(alice: Any, bob: Any, application: Application) -> None:
    assert bob
    with application.provider.get_tracer("application").start_as_current_span("job") as job:
        await alice.client.send("bob", "hello")
        await alice.client.send("bob", "again")
    context = job.get_span_context()
    sent = application.spans("keypost send")
    assert [parent(span) for span in sent] == [(context.trace_id, context.span_id)] * 2
    assert [parent(span) for span in application.spans("SendStream")] == [ids(span) for span in sent]


async def test_what_goes_out_later_goes_on_with_its_trace(
    alice: Any, bob: Any, services: Services, application: Application, open_client: Any
) -> None:
    services.faults["Send"] = [AWAY] * FOR_EVER
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "kept")
    await alice.client.close()
    (send,) = application.spans("keypost send")
    assert dict(send.attributes or {})["error.type"] == "MAILBOXES_UNAVAILABLE"
    services.faults["Send"] = []
    application.told.clear()
    again = await open_client("alice", bundle=None, tracer_provider=application.provider)
    await again.client.flush()
    assert [message.text for message in await bob.inbox()] == ["kept"]
    handed = application.spans("SendStream")[-1]
    assert parent(handed) == ids(send)
    assert read(services.batches[-1].trace_contexts[0]) == ids(handed)


async def test_what_is_refused_is_told_by_its_reason(
    alice: Any, bob: Any, services: Services, application: Application
) -> None:
    assert bob
    services.faults["Send"] = [FULL]
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "no room for this")
    for name in ("keypost send", "SendStream"):
        (span,) = application.spans(name)
        assert dict(span.attributes or {})["error.type"] == "MAILBOX_FULL"
        assert span.status.description is None
        assert not span.events


async def test_a_service_that_knows_no_streams_is_handed_the_context_with_the_call(
    alice: Any, bob: Any, services: Services, application: Application
) -> None:
    # gRPC may lose how a stream ended that ends as it begins: then it is begun again, and refused again.
    services.faults["SendStream"] = [failing(grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ADMITTED")] * FOR_EVER
    await alice.client.send("bob", "one by one")
    assert [message.text for message in await bob.inbox()] == ["one by one"]
    (call,) = application.spans("/Send")
    assert parent(call) == ids(application.spans("SendStream")[-1])


async def test_who_does_not_record_hands_on_nothing(open_client: Any, bob: Any, services: Services) -> None:
    assert bob
    for name, options in {"carol": {}, "dave": {"tracer_provider": TracerProvider(sampler=ALWAYS_OFF)}}.items():
        person = await open_client(name, **options)
        await person.client.enroll(name)
        await person.client.send("bob", "hello")
        assert not services.batches[-1].trace_contexts


@pytest.mark.parametrize("context", [CONTEXT, CONTEXT[:-1], "x" * 100_000, ""])
async def test_who_receives_goes_on_with_a_trace_and_takes_anything_else_for_nothing(
    bob: Any, open_client: Any, services: Services, application: Application, context: str
) -> None:
    carol = await open_client("carol", tracer_provider=application.provider)
    await carol.client.enroll("carol")
    await bob.client.send("carol", "hello")
    for waiting in services.mailboxes.values():
        for delivery in waiting:
            delivery.trace_context = context
    application.told.clear()
    assert [message.text for message in await carol.inbox()] == ["hello"]
    received = application.spans("keypost receive")
    assert [parent(span) for span in received] == ([read(context)] if is_context(context) else [])
