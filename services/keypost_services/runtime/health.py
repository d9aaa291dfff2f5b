"""Whether the service serves, and which of its parts do less than they should (grpc.health.v1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import Gauge
    from structlog.typing import FilteringBoundLogger

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The state that the health service, the metrics and the log report.

    The whole service has the name ``""``; each part that was ever degraded has its own, so that a probe may ask for it.

    Args:
        log: Where a change is said.
        degraded: A gauge with the label ``part``.
    """

    def __init__(self, log: FilteringBoundLogger, degraded: Gauge) -> None:
        self._log = log
        self._gauge = degraded
        self._why: dict[str, str] = {}
        self._states: dict[str, int] = {"": NOT_SERVING}
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the service takes calls."""
        return bool(self._states[""] == SERVING)

    @property
    def degraded(self) -> dict[str, str]:
        """The parts that do less than they should, and why."""
        return dict(self._why)

    @property
    def states(self) -> dict[str, int]:
        """The state of everything by name."""
        return dict(self._states)

    def set_serving(self, *services: str, serving: bool) -> None:
        """Say whether the service as a whole, and ``services`` by name, take calls."""
        for name in ("", *services):
            self._set(name, SERVING if serving else NOT_SERVING)

    def set_degraded(self, part: str, why: str | None) -> None:
        """Say that ``part`` does less than it should because of ``why``, or (None) that it is well again."""
        if self._why.get(part) == why:
            return
        if why is None:
            del self._why[part]
            self._log.info("recovered", part=part)
        else:
            self._why[part] = why
            self._log.warning("degraded", part=part, why=why)
        self._gauge.labels(part=part).set(0 if why is None else 1)
        self._set(part, SERVING if why is None else NOT_SERVING)

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
