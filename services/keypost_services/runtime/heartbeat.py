"""Whether the event loop runs: a service whose loop hangs still answers probes, since a thread of its own does that."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BEAT_SECONDS = 0.5
HUNG_SECONDS = 10.0
"""A loop that has not come round for so long hangs: no call is served by then."""


class Heartbeat:
    """Beats in the event loop, and says to other threads whether it still does.

    Args:
        on_lag: Told with each beat how many seconds late it was.
        hung_seconds: After so long without a beat the loop hangs.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        on_lag: Callable[[float], None],
        *,
        hung_seconds: float = HUNG_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_lag = on_lag
        self._hung_seconds = hung_seconds
        self._monotonic = monotonic
        self._beat_time = monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long ago the last beat was."""
        return self._monotonic() - self._beat_time

    @property
    def beats(self) -> bool:
        """Whether the loop runs."""
        return self.silent_seconds < self._hung_seconds

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._on_lag(max(0.0, self.silent_seconds - BEAT_SECONDS))
            self._beat_time = self._monotonic()
