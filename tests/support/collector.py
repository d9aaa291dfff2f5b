"""A collector of traces of the tests' own: OTLP over gRPC on a real socket, and everything that it was sent."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PATIENCE = 20.0
"""Seconds."""


@dataclass(frozen=True)
class Collected:
    """A span that was exported.

    Attributes:
        service: The ``service.name`` of its resource.
        name: Its name.
        kind: ``CLIENT``, ``SERVER``, ``PRODUCER``, ``CONSUMER`` or ``INTERNAL``.
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_id: The same, or empty.
        facts: Its attributes.
        failed: Whether its status is an error.
    """

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    facts: Mapping[str, Any]
    failed: bool

    @property
    def context(self) -> str:
        """Its trace context."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector(TraceServiceServicer):
    """Keeps what it is sent.

    Attributes:
        port: Where it listens.
        raw: Every request as it came, in bytes.
        spans: Every span.
    """

    def __init__(self) -> None:
        self.port = 0
        self.raw: list[bytes] = []
        self.spans: list[Collected] = []
        self._changed = threading.Condition()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(  # noqa: N802  # the proto's name
        self, request: pb.ExportTraceServiceRequest, _context: Any
    ) -> pb.ExportTraceServiceResponse:
        with self._changed:
            self.raw.append(request.SerializeToString())
            self.spans += _spans(request)
            self._changed.notify_all()
        return pb.ExportTraceServiceResponse()

    def wait_for(self, enough: Callable[[Sequence[Collected]], bool]) -> Sequence[Collected]:
        """Wait until the spans that came are enough, and return them."""
        with self._changed:
            came = self._changed.wait_for(lambda: enough(self.spans), PATIENCE)
            assert came, sorted(f"{span.service}: {span.name}" for span in self.spans)
            return list(self.spans)

    def trace(self, trace_id: str, enough: Callable[[Sequence[Collected]], bool]) -> Sequence[Collected]:
        """Wait until enough of a trace came, and return that."""

        def of_trace(spans: Sequence[Collected]) -> Sequence[Collected]:
            return [span for span in spans if span.trace_id == trace_id]

        return of_trace(self.wait_for(lambda spans: enough(of_trace(spans))))


def everything_to(collector: Collector, *, usernames: bool = True) -> dict[str, str]:
    """Return the settings of a service that hands everything over to a collector, names of callers too if wanted."""
    return {
        "TRACING_ENDPOINT": collector.endpoint,
        "TRACING_RATIO": "1",
        "TRACING_DEVICE_TRACES_PER_SECOND": "1000",
        "TRACING_USERNAMES": str(usernames).lower(),
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """Yield a collector that listens on a free port."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _spans(request: pb.ExportTraceServiceRequest) -> Iterator[Collected]:
    for resource in request.resource_spans:
        about = _facts(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Collected(
                    service=str(about["service.name"]),
                    name=span.name,
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    facts=_facts(span.attributes),
                    failed=span.status.code == Status.STATUS_CODE_ERROR,
                )


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
