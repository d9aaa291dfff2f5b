"""Limits kept in this process: for one process alone, and while Redis is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import SECOND
from keypost_services.runtime.buckets import Buckets
from keypost_services.runtime.limits.ports import Shortage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.clock import Clock
    from keypost_services.runtime.limits.ports import Charge, Quota

MOST_CALLERS = 20_000
"""Of each quota; whoever was not seen longest is forgotten first."""


class LocalLimiter:
    """A Limiter of one process.

    Args:
        clock: The time.
        most: How many callers are kept for each quota.
    """

    def __init__(self, clock: Clock, *, most: int = MOST_CALLERS) -> None:
        self._clock = clock
        self._most = most
        self._buckets: dict[Quota, Buckets] = {}

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Nothing is taken ahead here."""
        del charges
        return False

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing."""
        waits = [Shortage(charge.limit, self._of(charge).wait(charge.bucket, charge.cost)) for charge in charges]
        longest = max(waits, key=lambda shortage: shortage.retry_after_ms, default=None)
        if longest is not None and longest.retry_after_ms > 0:
            return longest
        # Nothing was awaited since: nobody took anything in between.
        await self.book(charges)
        return None

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this, or give it back."""
        for charge in charges:
            self._of(charge).book(charge.bucket, charge.cost)

    def _of(self, charge: Charge) -> Buckets:
        quota = charge.quota
        if quota not in self._buckets:
            per_second = quota.most * SECOND / quota.period
            self._buckets[quota] = Buckets(self._clock, size=quota.most, per_second=per_second, most=self._most)
        return self._buckets[quota]
