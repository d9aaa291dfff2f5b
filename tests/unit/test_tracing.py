"""Trace contexts, and spans where nobody listens."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from keypost.directory.v1 import directory_service_pb2
from keypost.tracing import NO_SPAN, Traces, here, is_context, is_sampled, method_of, trace_id_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def told() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(told: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(told))
    return Traces(provider)


def test_a_context_is_read() -> None:
    assert is_context(CONTEXT)
    assert (trace_id_of(CONTEXT), is_sampled(CONTEXT), is_sampled(f"{CONTEXT[:-1]}0")) == (TRACE, True, False)
    assert not is_sampled(f"{CONTEXT[:-2]}02")


@pytest.mark.parametrize(
    "text",
    [
        "",
        CONTEXT.upper(),
        f"{CONTEXT}\n",
        f"{CONTEXT}-00",
        f"01{CONTEXT[2:]}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        CONTEXT.replace("0af", "\N{ARABIC-INDIC DIGIT ZERO}af"),
    ],
)
def test_what_is_none_is_none(text: str) -> None:
    assert (is_context(text), trace_id_of(text), is_sampled(text)) == (False, "", False)


@given(st.text(max_size=80))
def test_any_text_is_judged(text: str) -> None:
    assert is_context(text) is bool(trace_id_of(text))


def test_a_span_follows_from_a_context(traces: Traces, told: InMemorySpanExporter) -> None:
    span = traces.begin_if(CONTEXT, "step", "CONSUMER", {"count": 1})
    with span.current():
        assert here() == span.passed_on == span.context
        traces.begin("within", "CLIENT").end("RATE_LIMITED")
    span.end()
    within, step = told.get_finished_spans()
    assert step.parent is not None
    assert within.parent is not None
    assert (step.parent.span_id, within.parent.span_id) == (int(PARENT, 16), step.context.span_id)
    assert span.ids == {"trace_id": TRACE, "span_id": f"{step.context.span_id:016x}"}
    assert (dict(within.attributes or {}), within.status.status_code) == (
        {"error.type": "RATE_LIMITED"},
        trace.StatusCode.ERROR,
    )
    assert within.status.description is None


def test_what_follows_from_nothing_begins_a_trace(traces: Traces, told: InMemorySpanExporter) -> None:
    with traces.begin("outer", "CLIENT").current(), traces.following(""):
        traces.begin("inner", "CLIENT").end()
    with traces.following(CONTEXT):
        traces.begin("followed", "CLIENT").end()
    inner, followed = told.get_finished_spans()
    assert inner.parent is None
    assert followed.context.trace_id == int(TRACE, 16)


def test_a_trace_that_is_not_recorded_is_passed_on_with_calls_but_not_with_messages() -> None:
    span = Traces(TracerProvider(sampler=ALWAYS_OFF)).begin("step", "CLIENT", follows="")
    assert (is_sampled(span.context), len(span.headers), span.passed_on) == (False, 1, "")


def test_without_a_provider_nothing_is_told() -> None:
    for traces in (Traces(), Traces(on=False)):
        span = traces.begin("step", "CLIENT")
        with span.current(), traces.following(CONTEXT), traces.call(directory_service_pb2.GetKeyInfoRequest()) as call:
            span.note("name", 1)
        span.end("REASON")
        assert (span.context, span.headers, span.ids, span.passed_on) == ("", (), {}, "")
        assert call in ((), (("traceparent", f"{CONTEXT}"),))
    assert Traces(on=False).begin_if(CONTEXT, "step", "CLIENT") is NO_SPAN
    assert here() == ""


def test_a_method_is_known_by_its_request() -> None:
    request = directory_service_pb2.BatchGetKeyInfoRequest.DESCRIPTOR
    assert method_of(request) == "keypost.directory.v1.DirectoryService/BatchGetKeyInfo"


def test_the_sdk_does_without_the_package() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
import keypost.client
from keypost.directory.v1.directory_service_pb2 import GetKeyInfoRequest
from keypost.tracing import NO_SPAN, Traces, here, note_here
traces = Traces()
with traces.following("x"), traces.call(GetKeyInfoRequest()) as headers:
    note_here("name", 1)
assert (headers, here(), traces.begin("x", "CLIENT")) == ((), "", NO_SPAN)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
