"""Traces: what is told OpenTelemetry of a message, from ``send`` to ``receive``, and of each call.

Nothing is told, nothing is sent and next to nothing is done unless the package ``opentelemetry-api`` is there and a
tracer provider was set up: by the application around the SDK, by its settings in a service. A span has the name of a
step or of a method, times, a status and a reason. It has no content, no key and no username.

Between processes a trace goes by its context: the ``traceparent`` of W3C Trace Context (version 00), 55 characters. On
a call it is in the metadata; of a message in a batch it stands beside the envelope (docs/spec.md, "Delivery").
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
except ImportError:  # without the extra ``otel`` there are no traces
    trace = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message
    from opentelemetry.trace import TracerProvider

Kind = Literal["CLIENT", "SERVER", "PRODUCER", "CONSUMER"]
Value = str | bool | int | float
HEADER = "traceparent"
_SCOPE = "keypost"
_CONTEXT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED = 0x01
_NOWHERE = contextlib.nullcontext()


def is_context(text: str) -> bool:
    """Return whether a text is a trace context: a ``traceparent`` of version 00."""
    return _CONTEXT.fullmatch(text) is not None


def trace_id_of(context: str) -> str:
    """Return the 32 hexadecimal digits that name the trace of a context; empty if it is none."""
    found = _CONTEXT.fullmatch(context)
    return found[1] if found else ""


def is_sampled(context: str) -> bool:
    """Return whether whoever wrote a context records its trace."""
    found = _CONTEXT.fullmatch(context)
    return bool(found and int(found[3], 16) & _SAMPLED)


class Span:
    """One step of a trace; ``NO_SPAN`` where none was begun. Ended once; ending it again does nothing."""

    __slots__ = ("_span", "context", "is_recorded")

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self.context = _context_of(span)
        """The trace context of what follows from this; empty if there is none."""
        self.is_recorded = bool(span is not None and span.is_recording())

    @property
    def passed_on(self) -> str:
        """The context that goes beside an envelope: empty where nobody records, for then nobody shall know of it."""
        return self.context if self.is_recorded else ""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that follows from this."""
        return ((HEADER, self.context),) if self.context else ()

    @property
    def ids(self) -> dict[str, str]:
        """What a log line says of it."""
        found = _CONTEXT.fullmatch(self.context)
        return {"trace_id": found[1], "span_id": found[2]} if found else {}

    def note(self, name: str, value: Value) -> None:
        """Add a fact; never one that anybody could object to seeing at an operator's."""
        if self.is_recorded:
            self._span.set_attribute(name, value)

    def end(self, failure: str = "") -> None:
        """End it.

        Args:
            failure: The reason (an upper-case word) why it failed; empty if it did not.
        """
        if self._span is None:
            return
        if failure and self.is_recorded:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR))
        self._span.end()

    def current(self) -> AbstractContextManager[object]:
        """Have what is begun meanwhile follow from this."""
        if self._span is None:
            return _NOWHERE
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)


def _context_of(span: Any) -> str:
    context = None if span is None else span.get_span_context()
    if context is None or not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & _SAMPLED:02x}"


NO_SPAN = Span()


def here() -> str:
    """Return the context of the current span where it is recorded; else nothing."""
    return NO_SPAN.context if trace is None else Span(trace.get_current_span()).passed_on


def note_here(name: str, value: Value) -> None:
    """Add a fact to the current span."""
    if trace is not None:
        trace.get_current_span().set_attribute(name, value)


class Traces:
    """Begins spans.

    Args:
        provider: Where they go; None: to the provider that the application has set for the whole process, if any.
        on: Whether any are begun, whatever the process has been told.
    """

    def __init__(self, provider: TracerProvider | None = None, *, on: bool = True) -> None:
        is_there = on and trace is not None
        self._tracer: Any = trace.get_tracer(_SCOPE, tracer_provider=provider) if is_there else None

    @property
    def are_on(self) -> bool:
        """Whether there is anything that could record them."""
        return self._tracer is not None

    def begin(
        self, name: str, kind: Kind, *, follows: str | None = None, facts: Mapping[str, Value] | None = None
    ) -> Span:
        """Begin a span.

        Args:
            name: The step, or the full name of the method.
            kind: Its part in the exchange.
            follows: The context that it follows from; empty: from nothing; None: from the current span.
            facts: What is to be known of it, by names of OpenTelemetry's semantic conventions.
        """
        if self._tracer is None:
            return NO_SPAN
        context = None if follows is None else _after(follows)
        span = self._tracer.start_span(name, context=context, kind=trace.SpanKind[kind], attributes=facts)
        return Span(span)

    def begin_if(self, follows: str, name: str, kind: Kind, facts: Mapping[str, Value] | None = None) -> Span:
        """Begin a span of a trace that somebody records; NO_SPAN if nobody does."""
        return self.begin(name, kind, follows=follows, facts=facts) if follows else NO_SPAN

    @contextlib.contextmanager
    def following(self, context: str) -> Iterator[None]:
        """Have what is begun meanwhile follow from a context; empty: from nothing that went before."""
        if self._tracer is None:
            yield
            return
        token = contexts.attach(_after(context))
        try:
            yield
        finally:
            contexts.detach(token)

    @contextlib.contextmanager
    def call(self, request: Message) -> Iterator[tuple[tuple[str, str], ...]]:
        """Record a unary call that is made meanwhile.

        Yields:
            The metadata by which the service's part follows from it.
        """
        if self._tracer is None:
            yield ()
            return
        method = method_of(request.DESCRIPTOR)
        span, code = self.begin(method, "CLIENT", facts=rpc_facts(method)), "CANCELLED"
        try:
            with span.current():
                yield span.headers
            code = "OK"
        except Exception as error:
            code = _code_of(error)
            raise
        finally:
            span.note("rpc.response.status_code", code)
            span.end("" if code == "OK" else code)


def rpc_facts(method: str) -> dict[str, Value]:
    """Return what is to be known of a call, by the semantic conventions for RPC."""
    return {"rpc.system.name": "grpc", "rpc.method": method}


@lru_cache
def method_of(request: Descriptor) -> str:
    """Return the full name of the method that takes this request: each has a request of its own."""
    for service in request.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is request:
                return f"{service.full_name}/{method.name}"
    return str(request.full_name)


def _after(context: str) -> Any:
    found = _CONTEXT.fullmatch(context)
    # Nothing of the application's own context but its span is taken away.
    before = contexts.get_current()
    if found is None:
        return trace.set_span_in_context(trace.INVALID_SPAN, before)
    flags = trace.TraceFlags(int(found[3], 16) & _SAMPLED)
    there = trace.SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(there), before)


def _code_of(error: Exception) -> str:
    code = getattr(error, "code", None)
    return str(getattr(code() if callable(code) else code, "name", type(error).__name__))
