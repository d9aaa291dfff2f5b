"""Whether the service serves, and which of its parts do less than they should (grpc.health.v1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import FilteringBoundLogger

    from keypost_services.runtime.metrics import HealthMetrics

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
LIVENESS = "liveness"
READINESS = "readiness"
STARTUP = "startup"


class Health:
    """The state that the health service, the probes, the metrics and the log report.

    The whole service has the names ``""`` and ``readiness``; each part has its own, so that a probe may ask for it. A
    part that is degraded *blocks* if nothing can be served without it: then this replica should get no calls, since
    another one may do better.

    Args:
        log: Where a change is said.
        metrics: Gauges of it.
    """

    def __init__(self, log: FilteringBoundLogger, metrics: HealthMetrics) -> None:
        self._log = log
        self._metrics = metrics
        self._why: dict[str, str] = {}
        self._awaited: set[str] = set()
        self._blocking: set[str] = set()
        self._services: set[str] = set()
        self._taking_calls = self._started = False
        self._states: dict[str, int] = dict.fromkeys(("", READINESS, STARTUP), NOT_SERVING)
        # Whoever is answered at all is answered by a process that lives.
        self._states[LIVENESS] = SERVING
        self._changed = asyncio.Event()
        metrics.ready.set(0)

    @property
    def started(self) -> bool:
        """Whether the service has ever taken calls."""
        return self._started

    @property
    def serving(self) -> bool:
        """Whether this replica should get calls."""
        return self.unready is None

    @property
    def unready(self) -> str | None:
        """Why this replica should get no calls; None: it should."""
        if not self._taking_calls:
            return "it ends" if self._started else "it starts"
        blocking = sorted(self._blocking | self._awaited)
        return f"nothing can be served without: {', '.join(blocking)}" if blocking else None

    @property
    def degraded(self) -> dict[str, str]:
        """The parts that do less than they should, and why."""
        return dict(self._why)

    @property
    def states(self) -> dict[str, int]:
        """The state of everything by name."""
        return dict(self._states)

    def set_serving(self, *services: str, serving: bool) -> None:
        """Say whether the service takes calls; ``services`` are its names besides ``""``, from now on."""
        self._services.update(services)
        self._taking_calls = serving
        self._started = self._started or serving
        self._judge()

    def expect(self, *parts: str, awaited: bool = False) -> None:
        """Say which parts the service has: well until they say otherwise.

        Args:
            parts: Their names.
            awaited: Nothing can be served before ``set_degraded`` was called for them.
        """
        for part in parts:
            self._metrics.degraded.labels(part).set(0)
            self._set(part, SERVING)
            if awaited:
                self._awaited.add(part)
        self._judge()

    def set_degraded(self, part: str, why: str | None, *, blocks: bool | None = None) -> None:
        """Say that ``part`` does less than it should because of ``why``, or (None) that it is well again.

        Args:
            part: Its name.
            why: A sentence.
            blocks: Whether nothing can be served without it; None: as was said before.
        """
        self._awaited.discard(part)
        if why is None or blocks is False:
            self._blocking.discard(part)
        elif blocks:
            self._blocking.add(part)
        if self._why.get(part) != why:
            self._note(part, why)
        self._judge()

    def _note(self, part: str, why: str | None) -> None:
        if why is None:
            del self._why[part]
            self._log.info("recovered", part=part)
        else:
            self._why[part] = why
            self._log.warning("degraded", part=part, why=why)
        self._metrics.degraded.labels(part).set(0 if why is None else 1)
        self._set(part, SERVING if why is None else NOT_SERVING)

    def _judge(self) -> None:
        self._set(STARTUP, SERVING if self._started else NOT_SERVING)
        for name in ("", READINESS, *self._services):
            self._set(name, SERVING if self.serving else NOT_SERVING)
        self._metrics.ready.set(self.serving)

    async def changes(self, name: str) -> AsyncIterator[int]:
        """Yield the state of ``name`` now and whenever it has changed."""
        last: int | None = None
        while True:
            state = self._states.get(name, UNKNOWN)
            changed = self._changed
            if state != last:
                yield state
                last = state
                continue
            await changed.wait()

    def _set(self, name: str, state: int) -> None:
        if self._states.get(name) == state:
            return
        self._states[name] = state
        self._changed.set()
        self._changed = asyncio.Event()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """The standard health service over ``Health``.

    Args:
        health: What it reports.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: Any, _context: Any) -> Any:  # noqa: N802  # the proto's name
        """Return the state of a name.

        Raises:
            ServiceError: NOT_FOUND with HEALTH_NAME_UNKNOWN.
        """
        state = self._health.states.get(request.service)
        if state is None:
            raise ServiceError(StatusCode.NOT_FOUND, "HEALTH_NAME_UNKNOWN", "there is nothing of this name")
        return health_pb2.HealthCheckResponse(status=state)

    async def List(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        """Return the state of every name."""
        statuses = {name: health_pb2.HealthCheckResponse(status=state) for name, state in self._health.states.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Yield the state of a name now and whenever it changes."""
        async for state in self._health.changes(request.service):
            yield health_pb2.HealthCheckResponse(status=state)
