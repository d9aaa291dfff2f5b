"""Time as Keypost counts it: Unix milliseconds, always passed in."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns the current time in Unix milliseconds."""

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def system_clock() -> int:
    """Return the machine's time in Unix milliseconds."""
    return time.time_ns() // 1_000_000
