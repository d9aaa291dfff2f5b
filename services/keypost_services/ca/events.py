"""The feed of key events: every event once, in order, without a gap."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost_services.ca import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from keypost_services.ca.store import Event, Store

BATCH = 256
HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Batch:
    """The next events; none in a heartbeat.

    Attributes:
        events: At most 256, in order.
        newest_sequence: The number of the newest event there is.
    """

    events: Sequence[Event]
    newest_sequence: int


class EventFeed:
    """Hands out events from the store.

    A change in this process wakes the watchers at once; changes by other processes on the same database are found
    by asking it.
    """

    def __init__(
        self,
        store: Store,
        *,
        poll_seconds: float = POLL_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._changed = asyncio.Event()

    def announce(self) -> None:
        """Wake the watchers: there is a new event."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self, after_sequence: int | None) -> AsyncIterator[Batch]:
        """Yield a batch at once, and then whenever there are events, or as a heartbeat; without end.

        Args:
            after_sequence: The last number that the caller has handled; None: only events to come.

        Raises:
            ServiceError: SEQUENCE_AHEAD; EVENTS_FORGOTTEN where numbers are missing, which they are after a restore.
        """
        changed = self._changed
        newest = there = await self._store.newest_sequence()
        last = newest if after_sequence is None else after_sequence
        if last > newest:
            raise errors.sequence_ahead(newest)
        loop = asyncio.get_running_loop()
        heartbeat = loop.time()
        while True:
            events = await self._store.list_events(last, BATCH)
            if events[0].sequence != last + 1 if events else last < there:
                raise errors.events_forgotten()
            if events or loop.time() >= heartbeat:
                last = events[-1].sequence if events else last
                newest = last if len(events) < BATCH else await self._store.newest_sequence()
                yield Batch(events, newest)
                heartbeat = loop.time() + self._heartbeat_seconds
            if len(events) < BATCH:
                await _wait(changed, min(self._poll_seconds, max(heartbeat - loop.time(), 0)))
            # Before the next look at the store: a change during it is not missed.
            changed = self._changed


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
