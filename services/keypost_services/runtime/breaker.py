"""Not every call waits for what is away: after a failure, one asks again once a pause is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keypost.clock import Clock


class Breaker:
    """Says whether something that failed is to be asked again.

    Args:
        clock: Unix milliseconds.
        pause_ms: How long nobody asks after a failure.
    """

    def __init__(self, clock: Clock, pause_ms: int) -> None:
        self._clock = clock
        self._pause_ms = pause_ms
        self._ask_again_time = 0
        self._away = False

    @property
    def is_away(self) -> bool:
        """Whether the last attempt failed."""
        return self._away

    def admit(self) -> bool:
        """Return whether to ask now; after a pause one caller at a time is let through to probe."""
        now = self._clock()
        if not self._away:
            return True
        # A clock set back must not keep the door shut.
        if self._ask_again_time - self._pause_ms <= now < self._ask_again_time:
            return False
        self._ask_again_time = now + self._pause_ms
        return True

    def failed(self) -> None:
        """Note that the attempt failed."""
        self._away = True
        self._ask_again_time = self._clock() + self._pause_ms

    def succeeded(self) -> None:
        """Note that the attempt succeeded."""
        self._away = False
