"""A service: composed, served on its ports, drained."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry
from typing_extensions import TypeVar

from keypost.clock import Clock, system_clock
from keypost.protocol.tokens import audience_of
from keypost_services.runtime.authenticator import Authenticator
from keypost_services.runtime.background import keep_running
from keypost_services.runtime.buckets import Buckets
from keypost_services.runtime.call_log import CallLog
from keypost_services.runtime.callers import VerifiedCallers
from keypost_services.runtime.calls import Bounds, Calls
from keypost_services.runtime.calls_under_way import CallsUnderWay
from keypost_services.runtime.certificate_ends import CERTIFICATES, INTERNAL, PUBLIC, CertificateEnds
from keypost_services.runtime.config import ServiceSettings, variable_of
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.grpc_server import steady_server
from keypost_services.runtime.health import Health, HealthServicer
from keypost_services.runtime.heartbeat import Heartbeat
from keypost_services.runtime.limits.call_limits import CallLimits
from keypost_services.runtime.limits.compose import open_limits
from keypost_services.runtime.limits.table import METHOD_LIMITS, REFLECTION_LIMITS
from keypost_services.runtime.listening import try_to_bind
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.method_table import METHODS, REFLECTION_METHODS, Callers
from keypost_services.runtime.metrics import CallMetrics, HealthMetrics, describe_process
from keypost_services.runtime.probes import Probes
from keypost_services.runtime.probes_grpc import serve_health
from keypost_services.runtime.probes_http import serve_http
from keypost_services.runtime.proxies import TrustedProxies, read_networks
from keypost_services.runtime.refusals import KNOWN_ERRORS, ErrorCodes
from keypost_services.runtime.tls import FollowedFiles, TlsFiles, check_own_certificate, follow, server_credentials
from keypost_services.runtime.tracing import ServiceTraces, open_traces

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from keypost_services.runtime.auth import DeviceKeys
    from keypost_services.runtime.limits.call_limits import Limits
    from keypost_services.runtime.limits.table import MethodLimits

SettingsT = TypeVar("SettingsT", bound=ServiceSettings, default=ServiceSettings)

ServiceEntry = tuple[str, Callable[[Any, grpc.aio.Server], None], object]
"""Full name of a service, the generated function that adds it to a server, the servicer."""

SETTLE_SECONDS = 5.0
_HOUR_MS = 3_600_000
_OPTIONS: tuple[tuple[str, int], ...] = (
    # Otherwise a second process could share the port unnoticed.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1_024),
    ("grpc.max_metadata_size", 16 * 1024),
    # Dead peers are noticed within 80 s, and clients may ask every 10 s whether this end lives.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 3),
    # Connections are renewed so that load spreads over new replicas; a stream may live its hour out.
    ("grpc.max_connection_idle_ms", 10 * 60_000),
    ("grpc.max_connection_age_ms", _HOUR_MS),
    ("grpc.max_connection_age_grace_ms", _HOUR_MS + 5 * 60_000),
)


@dataclass(frozen=True)
class Runtime(Generic[SettingsT]):
    """What a service is composed with.

    Attributes:
        settings: The service's settings.
        clock: The time.
        ids: Draws ids that nobody guesses.
        log: The service's log.
        metrics: Where the service registers its own metrics.
        health: Where it says which parts do less than they should.
        callers: Where it says that a key has ended: ``drop_key``, ``drop_user``.
        limits: How often callers may call, and what a service counts besides calls.
        traces: What it tells of messages and calls, if anybody listens.
        health_metrics: What every service says of itself.
    """

    settings: SettingsT
    clock: Clock
    ids: Callable[[], str]
    log: FilteringBoundLogger
    metrics: CollectorRegistry
    health: Health
    callers: VerifiedCallers
    limits: Limits
    traces: ServiceTraces
    health_metrics: HealthMetrics


@dataclass(frozen=True)
class Parts:
    """What a service consists of.

    Attributes:
        services: Its gRPC services.
        device_keys: Where keys of devices are looked up; None: no device is admitted.
        error_codes: Which errors of Keypost's family callers may know, besides invalid arguments and refused tokens;
            every other error that is no ServiceError reaches them as INTERNAL with an id.
    """

    services: Sequence[ServiceEntry]
    device_keys: DeviceKeys | None = None
    error_codes: ErrorCodes = field(default_factory=dict)


Compose = Callable[[Runtime[SettingsT]], AbstractAsyncContextManager[Parts]]
"""Puts a service together and, when its calls have ended, takes it apart."""


@dataclass(frozen=True)
class RunningService(Generic[SettingsT]):
    """A service that serves.

    Attributes:
        runtime: What it was composed with.
        public_port: The port where devices call.
        internal_port: The port where services call; None: there is none.
        health_port: The port of the probes over gRPC; None: there is none.
        metrics_port: The port of the metrics; None: there is none.
        server: The gRPC server.
        calls: Runs its calls.
    """

    runtime: Runtime[SettingsT]
    public_port: int
    internal_port: int | None
    health_port: int | None
    metrics_port: int | None
    server: grpc.aio.Server
    calls: Calls


def draw_id() -> str:
    """Return 16 random hexadecimal digits."""
    return secrets.token_hex(8)


@contextlib.asynccontextmanager
async def running(
    name: str,
    settings: SettingsT,
    compose: Compose[SettingsT],
    *,
    clock: Clock = system_clock,
    ids: Callable[[], str] = draw_id,
    log: FilteringBoundLogger | None = None,
    methods: Mapping[str, Callers] = METHODS,
    method_limits: Mapping[str, MethodLimits] = METHOD_LIMITS,
) -> AsyncIterator[RunningService[SettingsT]]:
    """Serve a service as long as the context lasts; leaving it drains.

    Args:
        name: The service's name, as in its certificate and in the audience of tokens.
        settings: Its settings.
        compose: Puts it together.
        clock: The time.
        ids: Draws ids of requests and errors.
        log: Its log; by default one as the settings say.
        methods: The method table, where a test needs another.
        method_limits: The table of limits, where a test needs another.

    Raises:
        StartError: it cannot start.
    """
    log = log or make_logger(name, settings.log_level, settings.log_format)
    registry = CollectorRegistry()
    describe_process(registry)
    call_metrics, health_metrics = CallMetrics(registry), HealthMetrics(registry)
    health = Health(log, health_metrics)
    health.expect(CERTIFICATES)
    callers = VerifiedCallers(clock, stream_seconds=settings.stream_seconds)
    async with contextlib.AsyncExitStack() as stack:
        # The last to end: what is done while the service ends is told too.
        traces = await stack.enter_async_context(open_traces(name, settings, clock, ids))
        limits = open_limits(stack, settings, clock=clock, log=log, health=health, registry=registry)
        runtime = Runtime(settings, clock, ids, log, registry, health, callers, limits, traces, health_metrics)
        heartbeat = Heartbeat(health_metrics.loop_lag.observe)
        keep_running(stack, runtime, "heartbeat", heartbeat.run)
        probes = Probes(health, heartbeat)
        health_port = await _listen(stack, settings, "health_listen", lambda at: serve_health(at, probes))
        metrics_port = await _listen(stack, settings, "metrics_listen", lambda at: serve_http(at, registry, probes))
        parts = await stack.enter_async_context(compose(runtime))
        authenticator = _authenticator(name, runtime, parts, methods)
        calls = _calls(authenticator, runtime, parts, call_metrics, _bounds(runtime, method_limits))
        server, ports, followed = _server(name, runtime, parts, calls)
        ends = CertificateEnds(settings, followed, health_metrics, health)
        keep_running(stack, runtime, CERTIFICATES, ends.run)
        await server.start()
        stack.push_async_callback(_drain, server, calls, health, settings.drain_seconds)
        service = RunningService(runtime, *ports, health_port, metrics_port, server, calls)
        health.set_serving(*(entry[0] for entry in parts.services), serving=True)
        if settings.ready_file:
            stack.callback(settings.ready_file.unlink, missing_ok=True)
            _write_ready(settings.ready_file, service)
        log.info("serving", **_ports(service))
        yield service


def _bounds(runtime: Runtime[Any], method_limits: Mapping[str, MethodLimits]) -> Bounds:
    settings = runtime.settings
    under_way = CallsUnderWay(settings.max_calls, settings.max_calls_per_caller)
    limits = CallLimits(runtime.limits, {**method_limits, **REFLECTION_LIMITS}, runtime.clock)
    return Bounds(under_way, limits, settings.call_seconds, TrustedProxies(read_networks(settings.trusted_proxies)))


def _authenticator(name: str, runtime: Runtime[Any], parts: Parts, methods: Mapping[str, Callers]) -> Authenticator:
    settings = runtime.settings
    lookups, anonymous = settings.token_lookups_per_second, settings.anonymous_calls_per_second
    return Authenticator(
        realm=settings.realm,
        audience=audience_of(settings.realm, name),
        methods={**methods, **(REFLECTION_METHODS if settings.reflection else {})},
        callers=runtime.callers,
        lookups=Buckets(runtime.clock, size=10 * lookups, per_second=lookups),
        anonymous=Buckets(runtime.clock, size=4 * anonymous, per_second=anonymous),
        device_keys=parts.device_keys,
        clock=runtime.clock,
    )


def _calls(
    authenticator: Authenticator, runtime: Runtime[Any], parts: Parts, metrics: CallMetrics, bounds: Bounds
) -> Calls:
    return Calls(
        authenticator=authenticator,
        callers=runtime.callers,
        error_codes={**KNOWN_ERRORS, **parts.error_codes},
        metrics=metrics,
        log=CallLog(runtime.log, runtime.settings.log_calls_per_second),
        ids=runtime.ids,
        bounds=bounds,
        traces=runtime.traces,
    )


def _server(
    name: str, runtime: Runtime[Any], parts: Parts, calls: Calls
) -> tuple[grpc.aio.Server, tuple[int, int | None], Mapping[str, FollowedFiles]]:
    settings = runtime.settings
    options = (
        *_OPTIONS,
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", settings.max_response_bytes),
    )
    server = steady_server((calls,), options)
    for _, add_to_server, servicer in parts.services:
        add_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(runtime.health), server)
    if settings.reflection:
        names = [entry[0] for entry in parts.services]
        reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], server)
    followed = {PUBLIC: follow(TlsFiles(settings.tls_certificate, settings.tls_private_key), runtime.log)}
    public, internal = _bind(server, settings, "public_listen", followed[PUBLIC]), None
    if settings.internal_listen is not None:
        followed[INTERNAL] = follow(_internal_files(name, settings), runtime.log)
        internal = _bind(server, settings, "internal_listen", followed[INTERNAL])
    return server, (public, internal), followed


def _internal_files(name: str, settings: ServiceSettings) -> TlsFiles:
    certificate, private_key, root = settings.require_internal_tls()
    check_own_certificate(certificate, settings.realm, name)
    return TlsFiles(certificate, private_key, root)


def _bind(server: grpc.aio.Server, settings: ServiceSettings, field_name: str, followed: FollowedFiles) -> int:
    listen = getattr(settings, field_name)
    credentials = server_credentials(followed)
    try:
        try_to_bind(listen)
        return server.add_secure_port(listen, credentials)
    except (OSError, RuntimeError) as error:
        raise _cannot_listen(settings, field_name, error) from error


def _cannot_listen(settings: ServiceSettings, field_name: str, error: Exception) -> StartError:
    variable = variable_of(type(settings), field_name)
    return StartError(f"{variable}: cannot listen at {getattr(settings, field_name)}: {error}")


async def _listen(
    stack: contextlib.AsyncExitStack,
    settings: ServiceSettings,
    field_name: str,
    serve: Callable[[str], AbstractAsyncContextManager[int]],
) -> int | None:
    """Serve as long as ``stack`` lasts if the settings say where; return the port."""
    if (listen := getattr(settings, field_name)) is None:
        return None
    try:
        return await stack.enter_async_context(serve(listen))
    except OSError as error:
        raise _cannot_listen(settings, field_name, error) from error


async def _drain(server: grpc.aio.Server, calls: Calls, health: Health, seconds: float) -> None:
    """End in good order: first nobody sends more, then what is under way ends, then the parts may go."""
    health.set_serving(serving=False)
    calls.drain()
    await server.stop(seconds)
    # gRPC counts a call as over when its status is sent or it is cancelled; the servicer may still tidy up.
    await calls.settled(SETTLE_SECONDS)


def _write_ready(file: Path, service: RunningService[Any]) -> None:
    """Write the ready file in one piece: whoever waits for it never reads half."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps({"pid": os.getpid()} | _ports(service)))
    partial.replace(file)


def _ports(service: RunningService[Any]) -> dict[str, int | None]:
    return {
        "public_port": service.public_port,
        "internal_port": service.internal_port,
        "health_port": service.health_port,
        "metrics_port": service.metrics_port,
    }
