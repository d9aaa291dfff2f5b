"""A clock that stands still until a test moves it."""

from __future__ import annotations

from keypost.clock import DAY

START = 1_800_000_000_000
"""15 January 2027, 08:00 UTC, in Unix milliseconds."""


class ManualClock:
    """Call it for the time; ``advance`` moves it."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: int) -> int:
        self.now += milliseconds
        return self.now


YEAR = 365 * DAY
