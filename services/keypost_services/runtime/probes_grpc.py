"""``grpc.health.v1`` on a port of its own, without TLS: the probes of Kubernetes speak gRPC, and no TLS."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost_services.runtime.grpc_server import try_to_bind
from keypost_services.runtime.health import NOT_SERVING, READINESS, SERVING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost_services.runtime.probes import Probes

_AT_ONCE = 8
_OPTIONS: tuple[tuple[str, int], ...] = (
    # Otherwise a second process could share the port unnoticed.
    ("grpc.so_reuseport", 0),
    # Whoever reaches this port is asked nothing: a question is a short name, and there are few at a time.
    ("grpc.max_receive_message_length", 256),
    ("grpc.max_metadata_size", 4 * 1024),
    ("grpc.max_concurrent_streams", _AT_ONCE),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.max_connection_age_ms", 10 * 60_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
)


class _ProbeServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """Answers ``Check`` alone, in a thread."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  # the proto's name
        answer = self._probes.answers.get(request.service or READINESS)
        if answer is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"the probes are {', '.join(self._probes.answers)}")
        well, _ = answer()
        return health_pb2.HealthCheckResponse(status=SERVING if well else NOT_SERVING)


@contextlib.asynccontextmanager
async def serve_health(listen: str, probes: Probes) -> AsyncIterator[int]:
    """Serve the probes as services of ``grpc.health.v1`` as long as the context lasts; the empty name is readiness.

    Nothing else is on this port, and it says no more than yes or no.

    Args:
        listen: ``host:port``.
        probes: What they answer.

    Yields:
        The port.

    Raises:
        OSError: the port is taken.
        RuntimeError: somebody took it just now.
    """
    try_to_bind(listen)
    threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="probes")
    server = grpc.server(threads, options=_OPTIONS, maximum_concurrent_rpcs=_AT_ONCE)
    health_pb2_grpc.add_HealthServicer_to_server(_ProbeServicer(probes), server)
    port = server.add_insecure_port(listen)
    server.start()
    try:
        yield port
    finally:
        await asyncio.to_thread(server.stop(grace=None).wait)
        threads.shutdown()
