"""``grpc.health.v1`` on a port of its own, without TLS: the probes of Kubernetes speak gRPC, and no TLS."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost_services.runtime.health import NOT_SERVING, READINESS, SERVING
from keypost_services.runtime.listening import try_to_bind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost_services.runtime.probes import Probes

_THREADS = 64
"""A call whose question does not come holds a thread until its connection is ended."""
_CONNECTION_SECONDS = 5.0
_STOP_SECONDS = 5.0
_OPTIONS: tuple[tuple[str, int], ...] = (
    # Otherwise a second process could share the port unnoticed.
    ("grpc.so_reuseport", 0),
    # Whoever reaches this port is not asked who he is. A probe is a connection, a short name and an answer: what lasts
    # longer is none, and must not hold the threads that probes need.
    ("grpc.max_receive_message_length", 256),
    ("grpc.max_metadata_size", 4 * 1024),
    ("grpc.max_concurrent_streams", 1),
    ("grpc.max_connection_age_grace_ms", 1_000),
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
async def serve_health(
    listen: str, probes: Probes, *, connection_seconds: float = _CONNECTION_SECONDS
) -> AsyncIterator[int]:
    """Serve the probes as services of ``grpc.health.v1`` as long as the context lasts; the empty name is readiness.

    Nothing else is on this port, and it says no more than yes or no.

    Args:
        listen: ``host:port``.
        probes: What they answer.
        connection_seconds: After so long a connection is ended, and what is still asked on it a second later.

    Yields:
        The port.

    Raises:
        OSError: the port is taken.
    """
    try_to_bind(listen)
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="probes")
    options = (*_OPTIONS, ("grpc.max_connection_age_ms", round(1000 * connection_seconds)))
    server = grpc.server(threads, options=options, maximum_concurrent_rpcs=4 * _THREADS)
    health_pb2_grpc.add_HealthServicer_to_server(_ProbeServicer(probes), server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    server.start()
    try:
        yield port
    finally:
        await asyncio.to_thread(server.stop(grace=None).wait, _STOP_SECONDS)
        threads.shutdown(wait=False)
