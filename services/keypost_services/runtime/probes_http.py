"""What a service answers over plain HTTP: what it counts, and the probes with their reasons."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from keypost_services.runtime.health import LIVENESS, READINESS, STARTUP
from keypost_services.runtime.listening import split_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client import CollectorRegistry

    from keypost_services.runtime.probes import Probes


PATHS = {"/started": STARTUP, "/ready": READINESS, "/live": LIVENESS}
"""The probe that each path asks."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    timeout = 10  # seconds; a client that says nothing does not hold a thread

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Log nothing: probes ask every few seconds."""


@contextlib.asynccontextmanager
async def serve_http(listen: str, registry: CollectorRegistry, probes: Probes) -> AsyncIterator[int]:
    """Serve ``/metrics``, ``/live``, ``/started`` and ``/ready`` over HTTP as long as the context lasts.

    Args:
        listen: ``host:port``.
        registry: What ``/metrics`` shows.
        probes: What the others answer: 200 or 503, and why.

    Yields:
        The port.

    Raises:
        OSError: the port is taken.
    """
    host, port = split_address(listen)
    # The server of the standard library is told which family it is, and would take IPv4 alone.
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    server_cls: type[WSGIServer] = type("_ServerOfFamily", (_Server,), {"address_family": family})
    server = make_server(host, port, application(registry, probes), server_cls, _Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def application(
    registry: CollectorRegistry, probes: Probes
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """Return what answers; it is called in threads, never in the event loop."""
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            written: Iterable[bytes] = metrics(environ, start)
            return written
        if path not in PATHS:
            return _json(start, "404 Not Found", {})
        well, said = probes.answers[PATHS[path]]()
        return _json(start, "200 OK" if well else "503 Service Unavailable", said)

    return answer


def _json(start: StartResponse, status: str, answer: object) -> list[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
