"""What probes are told: each answers from a thread, so that an event loop that hangs is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.runtime.health import LIVENESS, READINESS, STARTUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost_services.runtime.health import Health
    from keypost_services.runtime.heartbeat import Heartbeat

    Answer = Callable[[], tuple[bool, dict[str, object]]]


class Probes:
    """What probes are told: a status, and why.

    Args:
        health: Whether the service has started, and should get calls.
        heartbeat: Whether its event loop runs.
    """

    def __init__(self, health: Health, heartbeat: Heartbeat) -> None:
        self._health = health
        self._heartbeat = heartbeat
        self.answers: dict[str, Answer] = {STARTUP: self.started, READINESS: self.ready, LIVENESS: self.live}

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
