"""Traces of a service: from its settings to a provider, and the server's part of each call.

What a device says of its trace is taken as a wish: whoever calls on the public port may have so many traces a second
recorded and no more, together. It is granted once it is known who calls, so nobody without a token uses up what devices
have, and whoever calls where anyone may has an allowance apart. Other services are believed. An exporter that gets
nothing through costs a bounded queue and never a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc

from keypost.tracing import (
    HEADER,
    NO_SPAN,
    Span,
    Traces,
    is_context,
    is_sampled,
    note_here,
    rpc_facts,
    trace_id_of,
)
from keypost_services.runtime.auth import CallerKind
from keypost_services.runtime.buckets import Buckets
from keypost_services.runtime.config import variable_of
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from keypost.clock import Clock
    from keypost_services.runtime.auth import Caller
    from keypost_services.runtime.config import ServiceSettings

MOST_SPANS_WAITING = 2_048
MOST_SPANS_AT_ONCE = 256
EXPORT_EVERY_MS = 1_000
EXPORT_SECONDS = 2
"""How long handing over may take, repetitions included."""
FAREWELL_SECONDS = 3.0
"""How long the last spans have when the service ends."""
_LONGEST_VALUE = 256
_DEVICES = "devices"
_ANYONE = "anyone"
_QUIET = "/grpc."
"""Probes and reflection."""


@dataclass(frozen=True)
class CallTrace:
    """The service's part of one call.

    Attributes:
        span: What is current while the call is handled; none yet where there is a wish.
        ids: What log lines say of it.
        wish: The context of a device that wants the call recorded, while nobody knows whether it is one.
    """

    span: Span
    ids: Mapping[str, str]
    wish: str = ""


NO_TRACE = CallTrace(NO_SPAN, {})


class ServiceTraces:
    """The traces of one service.

    Args:
        traces: Where they go.
        wishes: How many traces a second are recorded because a device began them.
        with_usernames: Whether a span names the caller.
    """

    def __init__(self, traces: Traces, wishes: Buckets, *, with_usernames: bool) -> None:
        self.traces = traces
        self._wishes = wishes
        self._with_usernames = with_usernames

    def begin_call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], *, is_service: bool, streaming: bool
    ) -> CallTrace:
        """Begin the service's part of a call; nothing is recorded by a device's wish yet.

        Streams have none: they last an hour, and the messages on them have traces of their own.

        Args:
            method: Its full name, with the slash in front.
            metadata: Its metadata.
            is_service: Whether a service's certificate was shown.
            streaming: Whether it is a stream.
        """
        said = next((value for name, value in metadata if name == HEADER and isinstance(value, str)), "")
        if said and not is_context(said):
            said = ""
        if not self.traces.are_on or streaming or method.startswith(_QUIET):
            return CallTrace(NO_SPAN, {"trace_id": trace_id_of(said)} if said else {})
        if is_service or not is_sampled(said):
            return self._begin(method, said)
        return CallTrace(NO_SPAN, {"trace_id": trace_id_of(said)}, wish=said)

    def admitted(self, trace: CallTrace, method: str, caller: Caller) -> CallTrace:
        """Return the trace of a call whose caller is known: where it had a wish, begun now, recorded if it is granted.

        What is asked to find out who calls is part of no trace but its own.
        """
        if not trace.wish:
            return trace
        return self._begin(method, trace.wish if self.grant(caller) else f"{trace.wish[:-2]}00")

    def _begin(self, method: str, follows: str) -> CallTrace:
        name = method.removeprefix("/")
        span = self.traces.begin(name, "SERVER", follows=follows, facts=rpc_facts(name))
        return CallTrace(span, span.ids)

    def grant(self, caller: Caller | None = None) -> bool:
        """Return whether one more trace is recorded that a caller began; by default one that showed itself."""
        is_anyone = caller is not None and caller.kind is CallerKind.ANYONE
        return self.traces.are_on and not self._wishes.take(_ANYONE if is_anyone else _DEVICES)

    def name_caller(self, caller: Caller) -> None:
        """Say in the current span who calls, if the operator wants that."""
        if self._with_usernames:
            note_here("user.name", caller.name)


def end_call(span: Span, code: str, reason: str) -> None:
    """End the service's part of a call with its status and, of a refusal, its reason."""
    span.note("rpc.response.status_code", code)
    span.end(reason or ("" if code == "OK" else code))


@contextlib.asynccontextmanager
async def open_traces(
    name: str, settings: ServiceSettings, clock: Clock, ids: Callable[[], str]
) -> AsyncIterator[ServiceTraces]:
    """Hand spans over to the collector that the settings name, as long as the context lasts; the last ones at its end.

    Args:
        name: The service's name.
        settings: Its settings.
        clock: The time.
        ids: Draws the id of this process among its replicas.

    Raises:
        StartError: the file with the collector's roots cannot be read.
    """
    most = settings.tracing_device_traces_per_second
    wishes = Buckets(clock, size=max(1.0, 2 * most), per_second=most)
    if settings.tracing_endpoint is None:
        yield ServiceTraces(Traces(on=False), wishes, with_usernames=False)
        return
    provider = _provider(name, settings, ids())
    try:
        yield ServiceTraces(Traces(provider), wishes, with_usernames=settings.tracing_usernames)
    finally:
        await _within(provider.shutdown, FAREWELL_SECONDS)


def _provider(name: str, settings: ServiceSettings, instance: str) -> Any:
    # Loaded where it is switched on: it takes a while, and no other service needs it.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

    about = {
        "service.namespace": "keypost",
        "service.name": f"keypost-{name}",
        "service.version": version("keypost"),
        "service.instance.id": instance,
    }
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.tracing_ratio)),
        resource=Resource.create(about),
        span_limits=SpanLimits(max_span_attribute_length=_LONGEST_VALUE),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(
        endpoint=settings.tracing_endpoint, credentials=_credentials(settings), timeout=EXPORT_SECONDS
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=MOST_SPANS_WAITING,
            max_export_batch_size=MOST_SPANS_AT_ONCE,
            schedule_delay_millis=EXPORT_EVERY_MS,
        )
    )
    return provider


def _credentials(settings: ServiceSettings) -> grpc.ChannelCredentials | None:
    if settings.tracing_tls_root is None:
        return None
    try:
        return grpc.ssl_channel_credentials(settings.tracing_tls_root.read_bytes())
    except OSError as error:
        raise StartError(f"{variable_of(type(settings), 'tracing_tls_root')}: {error.strerror}") from error


async def _within(work: Callable[[], object], seconds: float) -> None:
    """Do something that blocks, for so long at most; what takes longer ends with the process."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any longer
                loop.call_soon_threadsafe(done.set)

    # None of the loop's own threads: those are waited for at its end.
    threading.Thread(target=run, name="last spans", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()
