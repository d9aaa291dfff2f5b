"""Key events kept for a while in memory, for those who watch this directory.

A watcher has no queue: it reads the ring at its own pace, and if it falls off its end it is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keypost.keys.v1 import key_info_pb2

MOST_IN_BATCH = 256


class EventsForgottenError(Exception):
    """The events wanted are no longer, or were never, in the ring."""


class EventHub:
    """A ring of the newest events.

    Args:
        capacity: How many events it keeps.
    """

    def __init__(self, capacity: int) -> None:
        self._events: deque[key_info_pb2.KeyEvent] = deque(maxlen=capacity)
        self._newest = 0
        self._generation = 0
        self._changed = asyncio.Event()

    @property
    def newest(self) -> int:
        """The sequence of the newest event seen."""
        return self._newest

    @property
    def generation(self) -> int:
        """How often the ring began anew: sequences of another generation mean nothing."""
        return self._generation

    def begin(self, newest: int) -> None:
        """Begin anew after ``newest``: what was before is forgotten."""
        self._events.clear()
        self._newest = newest
        self._generation += 1
        self._wake()

    def publish(self, events: Iterable[key_info_pb2.KeyEvent]) -> None:
        """Add events, which follow the newest without a gap."""
        for event in events:
            self._events.append(event)
            self._newest = event.sequence
        self._wake()

    def after(self, sequence: int, generation: int) -> Sequence[key_info_pb2.KeyEvent]:
        """Return the next events after ``sequence``: at most 256, none if there is none yet.

        Raises:
            EventsForgottenError: some of them are no longer here, or the ring began anew meanwhile.
        """
        missing = self._newest - sequence
        if generation != self._generation or missing > len(self._events):
            raise EventsForgottenError
        start = len(self._events) - max(missing, 0)
        return tuple(islice(self._events, start, start + MOST_IN_BATCH))

    async def wait_beyond(self, sequence: int, generation: int) -> None:
        """Return once there is something after ``sequence``, or the ring began anew."""
        while self._newest <= sequence and generation == self._generation:
            await self._changed.wait()

    async def wait_until(self, sequence: int, seconds: float) -> bool:
        """Return whether ``sequence`` was reached within ``seconds``: replicas do not run in step."""
        try:
            async with asyncio.timeout(seconds):
                while self._newest < sequence:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
