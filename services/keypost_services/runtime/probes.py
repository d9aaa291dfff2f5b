"""What a service answers over plain HTTP: probes, and what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client import CollectorRegistry

    from keypost_services.runtime.health import Health
    from keypost_services.runtime.heartbeat import Heartbeat

    Answer = Callable[[], tuple[bool, dict[str, object]]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    timeout = 10  # seconds; a client that says nothing does not hold a thread

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Log nothing: probes ask every few seconds."""


class Probes:
    """What probes are told: a status, and why.

    Args:
        health: Whether the service has started, and should get calls.
        heartbeat: Whether its event loop runs.
    """

    def __init__(self, health: Health, heartbeat: Heartbeat) -> None:
        self._health = health
        self._heartbeat = heartbeat
        self.answers: dict[str, Answer] = {"/live": self.live, "/started": self.started, "/ready": self.ready}

    def live(self) -> tuple[bool, dict[str, object]]:
        """Say whether the process can go on: nothing but its end helps a loop that hangs."""
        return self._heartbeat.beats, {"live": self._heartbeat.beats, **self._hung()}

    def started(self) -> tuple[bool, dict[str, object]]:
        """Say whether the service has ever served: until then it is not to be ended for being slow."""
        return self._health.started, {"started": self._health.started}

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Say whether this replica should get calls, and what does less than it should."""
        why = {"why": self._health.unready} if self._health.unready else {}
        ready = self._heartbeat.beats and not why
        return ready, {"ready": ready, "degraded": self._health.degraded, **why, **self._hung()}

    def _hung(self) -> dict[str, object]:
        if self._heartbeat.beats:
            return {}
        return {"why": f"the event loop has not run for {self._heartbeat.silent_seconds:.0f} s"}


@contextlib.asynccontextmanager
async def serve_probes(listen: str, registry: CollectorRegistry, probes: Probes) -> AsyncIterator[int]:
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
    host, _, port = listen.rpartition(":")
    server = make_server(host.strip("[]"), int(port), application(registry, probes), _Server, _Silent)
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
        if (probe := probes.answers.get(path)) is None:
            return _json(start, "404 Not Found", {})
        well, said = probe()
        return _json(start, "200 OK" if well else "503 Service Unavailable", said)

    return answer


def _json(start: StartResponse, status: str, answer: object) -> list[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
