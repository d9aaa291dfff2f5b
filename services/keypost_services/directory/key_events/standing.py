"""How far the watch of the CA vouches for what is held: without it, records are soon asked for anew.

While the watch stands, a record lives until its next_update, because an event would have dropped it. With the watch
down for longer than the grace, a record older than the grace is asked for anew; if the CA does not answer either, it is
served until its next_update, which is the bound that its signature states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keypost.clock import Clock


class Standing:
    """Knows since when, and until when, every key event was acted upon.

    Args:
        clock: Unix milliseconds.
        grace_ms: How long after the watch's last sign of life it still vouches.
    """

    def __init__(self, clock: Clock, grace_ms: int) -> None:
        self._clock = clock
        self._grace_ms = grace_ms
        self._begin_time: int | None = None
        self._alive_time: int | None = None

    def covers(self, begin_time: int) -> None:
        """Note that the events of records made at or after ``begin_time`` are acted upon; 0: of all there are."""
        self._begin_time = begin_time

    def alive(self) -> None:
        """Note a sign of life of the watch; what it brought is acted upon."""
        self._alive_time = self._clock()

    def lost(self) -> None:
        """Note that events were missed: nothing is vouched for any more."""
        self._begin_time = self._alive_time = None

    def is_standing(self) -> bool:
        """Return whether the watch vouches for what is held."""
        return self._alive_time is not None and self._clock() - self._alive_time <= self._grace_ms

    def oldest(self) -> int:
        """Return the this_update below which a record is to be asked for anew."""
        now = self._clock()
        begin_time = now if self._begin_time is None else self._begin_time
        return begin_time if self.is_standing() else max(begin_time, now - self._grace_ms)
