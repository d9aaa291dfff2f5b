"""Waiting for what happens, never for time to pass."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class TooLateError(Exception):
    """What was waited for did not happen in time."""


class Bell:
    """Rings whenever something has happened; whoever waits for a condition looks again."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Say that something has happened."""
        self._rung.set()

    async def until(self, what: str, missing: Callable[[], list[str]], seconds: float) -> float:
        """Wait until nothing is missing; return how many seconds it took.

        Args:
            what: What is waited for, for the error.
            missing: Returns what is still missing, in words.
            seconds: How long it may take.

        Raises:
            TooLateError: it took longer.
        """
        begin = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                while missing():
                    self._rung.clear()
                    await self._rung.wait()
        except TimeoutError:
            still = "\n".join(f"  {each}" for each in missing())
            raise TooLateError(f"{what}: after {seconds:.0f} s still missing:\n{still}") from None
        return time.monotonic() - begin
