"""What is done about key events: drop what is held of the user in every tier, then tell those who watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.clock import Clock
    from keypost.keys.v1 import key_info_pb2
    from keypost_services.directory.key_events.hub import EventHub
    from keypost_services.directory.key_events.standing import Standing
    from keypost_services.directory.look_up.look_up import LookUp
    from keypost_services.directory.look_up.ports import Position
    from keypost_services.directory.metrics import Metrics


class Callers(Protocol):
    """Callers whose tokens have been verified."""

    def drop_user(self, username: str) -> None:
        """Forget the callers of this user."""

    def drop_all(self) -> None:
        """Forget all callers."""


class Actions:
    """Acts upon key events, each before anybody hears of it.

    Args:
        look_up: Drops records, in process memory and in Redis.
        position: Where it is noted how far that has come.
        callers: Verified callers, dropped with the records that they rest on.
        hub: Those who watch this directory.
        standing: Told since when, and until when, events were acted upon.
        clock: Unix milliseconds.
        metrics: Where events are counted.
    """

    def __init__(
        self,
        look_up: LookUp,
        position: Position,
        callers: Callers,
        hub: EventHub,
        *,
        standing: Standing,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._look_up = look_up
        self._position = position
        self._callers = callers
        self._hub = hub
        self._standing = standing
        self._clock = clock
        self._metrics = metrics
        self._has_begun = False

    async def resume_after(self) -> int | None:
        """Return the sequence up to which Redis is right, None if nobody knows."""
        sequence = await self._position.read()
        if sequence is not None:
            self._standing.covers(0)
        return sequence

    def begin_after(self, sequence: int, *, anew: bool) -> None:
        """Let those who watch begin after ``sequence``, unless they have begun."""
        if anew:
            self._standing.covers(self._clock())
            self._callers.drop_all()
        if not self._has_begun:
            self._has_begun = True
            self._hub.begin(sequence)

    async def act(self, events: Sequence[key_info_pb2.KeyEvent]) -> None:
        """Drop what is held of the users of these events, then pass the events on."""
        floors: dict[str, int] = {}
        for event in events:
            floors[event.username] = max(event.revision, floors.get(event.username, 0))
        await self._look_up.drop_many(floors)
        for username in floors:
            self._callers.drop_user(username)
        self._metrics.acted_upon(events, self._clock())
        self._hub.publish(events)

    async def reached(self, sequence: int, newest_sequence: int) -> None:
        """Note that everything up to ``sequence`` was acted upon."""
        self._metrics.newest_sequence.set(sequence)
        self._metrics.events_behind.set(newest_sequence - sequence)
        await self._position.advance(sequence)
        # While the watch catches up it cannot vouch for anything.
        if sequence >= newest_sequence:
            self._standing.alive()

    async def lose_all(self) -> None:
        """Drop everything, and tell those who watch to do the same."""
        self._standing.lost()
        self._has_begun = False
        self._hub.begin(0)
        self._callers.drop_all()
        await self._look_up.drop_all()

    def broke(self, why: str) -> None:
        """Count why the watch broke."""
        self._metrics.watch_breaks.labels(why=why).inc()
