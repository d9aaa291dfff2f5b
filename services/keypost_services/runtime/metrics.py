"""What a service counts, and where it can be read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from functools import lru_cache
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from keypost_services.runtime.health import Health

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class CallMetrics:
    """The counters of calls.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter("keypost_calls", "Calls that ended.", ("method", "code"), registry=registry)
        self.seconds = Histogram(
            "keypost_call_seconds",
            "Duration of unary calls.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "keypost_refusals", "Calls that failed, by reason.", ("method", "reason"), registry=registry
        )
        self.under_way = Gauge(
            "keypost_calls_under_way", "Calls and streams under way.", ("method",), registry=registry
        )
        # Looking a child up by its labels takes longer than counting; methods are few, and so are codes.
        self.under_way_of = lru_cache(self.under_way.labels)
        self.seconds_of = lru_cache(self.seconds.labels)
        self.calls_of = lru_cache(self.calls.labels)
        self.degraded = Gauge("keypost_degraded", "Parts that do less than they should.", ("part",), registry=registry)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    timeout = 10  # seconds; a client that says nothing does not hold a thread

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Log nothing: probes ask every few seconds."""


@contextlib.asynccontextmanager
async def serve_metrics(listen: str, registry: CollectorRegistry, health: Health) -> AsyncIterator[int]:
    """Serve ``/metrics``, ``/live`` and ``/ready`` over HTTP as long as the context lasts.

    Args:
        listen: ``host:port``.
        registry: What ``/metrics`` shows.
        health: What ``/ready`` answers by: 200 or 503, with the degraded parts.

    Yields:
        The port.

    Raises:
        OSError: the port is taken.
    """
    host, _, port = listen.rpartition(":")
    application = _application(make_wsgi_app(registry), health)
    server = make_server(host.strip("[]"), int(port), application, _Server, _Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _application(metrics: WSGIApplication, health: Health) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)
        if path == "/live":
            return _json(start, "200 OK", {"live": True})
        if path == "/ready":
            status = "200 OK" if health.serving else "503 Service Unavailable"
            return _json(start, status, {"ready": health.serving, "degraded": health.degraded})
        return _json(start, "404 Not Found", {})

    return answer


def _json(start: StartResponse, status: str, answer: object) -> list[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
