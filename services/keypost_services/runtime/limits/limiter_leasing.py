"""Limits that are asked for several calls at once, where a caller calls often: most of its calls then ask nobody.

What is taken ahead is taken: nobody gets more than a quota has, however many replicas take ahead. What is not used
within a second is given back when the caller calls again, and lost if it does not: a hundredth of a quota at most.
Before it is used up the next is taken, so that those who call often do not wait.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from cachetools import LRUCache

from keypost.clock import SECOND
from keypost_services.runtime.limits.ports import LimitsAwayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.clock import Clock
    from keypost_services.runtime.limits.ports import Charge, Limiter, Shortage

LEASE_MS = SECOND
MOST_CALLS = 64
SHARE = 100
"""At most one part in so many of a quota is taken ahead."""
MOST_CALLERS = 20_000


@dataclass
class _Lease:
    """What was taken ahead for calls that cost the same.

    Attributes:
        most: How many calls may be paid for at once.
        left: How many are paid for.
        size: How many were the last time.
        begun: Since when, at the latest: when it was asked for.
        lock: Held by who asks; the others wait for what that brings.
    """

    most: int
    left: int = 0
    size: int = 0
    begun: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class LeasingLimiter:
    """A Limiter over another one that is dear to ask.

    Args:
        limiter: The other one.
        clock: The time.
        most: How many callers are remembered.
    """

    def __init__(self, limiter: Limiter, clock: Clock, *, most: int = MOST_CALLERS) -> None:
        self._limiter = limiter
        self._clock = clock
        self._leases: LRUCache[tuple[Charge, ...], _Lease] = LRUCache(most)
        self._booked: LRUCache[tuple[str, str], int] = LRUCache(most)
        self._under_way: set[asyncio.Task[None]] = set()

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Take all of this out of what was taken ahead; return whether it was there."""
        key = _key_of(charges)
        lease = self._leases.get(key)
        if lease is None or not self._spend(lease, charges):
            return False
        if 2 * lease.left <= lease.size and not lease.lock.locked():
            self._take_ahead(lease, key)
        return True

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing; raises LimitsAwayError."""
        if self.spend(charges):
            return None
        key = _key_of(charges)
        most = _most_calls(key)
        if most < 2:  # noqa: PLR2004  # one is what is asked for anyway
            return await self._limiter.take(charges)
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = _Lease(most)
        async with lease.lock:
            return None if self._spend(lease, charges) else await self._renew(lease, charges)

    async def close(self) -> None:
        """End what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this, or give it back; raises LimitsAwayError."""
        await self._limiter.book(charges)
        for charge in charges:
            if charge.cost > 0:
                self._booked[charge.limit, charge.caller] = self._clock()

    def _spend(self, lease: _Lease, charges: Sequence[Charge]) -> bool:
        if not lease.left or not self._stands(lease, charges):
            return False
        lease.left -= 1
        return True

    def _stands(self, lease: _Lease, charges: Sequence[Charge]) -> bool:
        """Return whether what was taken ahead still counts: of what must be left, nothing was booked meanwhile."""
        if not 0 <= self._clock() - lease.begun < LEASE_MS:
            return False
        wanted = ((charge.limit, charge.caller) for charge in charges if not charge.cost)
        return all(self._booked.get(name, -1) < lease.begun for name in wanted)

    def _take_ahead(self, lease: _Lease, charges: Sequence[Charge]) -> None:
        """Have more taken before nothing is left: nobody has to wait for it then."""
        task = asyncio.create_task(self._fill(lease, charges))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _fill(self, lease: _Lease, charges: Sequence[Charge]) -> None:
        async with lease.lock:
            size, begun = min(2 * lease.size, lease.most), self._clock()
            if size <= lease.left or not self._stands(lease, charges):
                return
            more = size - lease.left
            try:
                shortage = await self._limiter.take(_times(charges, more))
            except LimitsAwayError:
                # The call that finds nothing left notices it too, and knows what to do instead.
                return
            if shortage is None:
                lease.left, lease.size, lease.begun = lease.left + more, size, begun

    async def _renew(self, lease: _Lease, charges: Sequence[Charge]) -> Shortage | None:
        """Ask for one call, or for more if the last ones were used quickly."""
        size = min(2 * lease.size, lease.most) if self._stands(lease, charges) else 1
        unused, lease.left, lease.size, begun = lease.left, 0, 0, self._clock()
        if unused:
            await self._limiter.book(_times(charges, -unused))
        shortage = await self._limiter.take(_times(charges, size))
        if shortage is not None and size > 1:
            size, shortage = 1, await self._limiter.take(charges)
        if shortage is None:
            lease.left, lease.size, lease.begun = size - 1, size, begun
        return shortage


def _key_of(charges: Sequence[Charge]) -> tuple[Charge, ...]:
    # A tuple is not made anew: one that knows its hash would be another one that does not.
    return charges if isinstance(charges, tuple) else tuple(charges)


@lru_cache(MOST_CALLERS)
def _most_calls(charges: tuple[Charge, ...]) -> int:
    """Return for how many calls that cost this may be paid ahead."""
    calls = [charge.quota.most // (SHARE * charge.cost) for charge in charges if charge.cost > 0]
    return min(MOST_CALLS, *calls) if calls else 0


def _times(charges: Sequence[Charge], number: int) -> Sequence[Charge]:
    return [replace(charge, cost=charge.cost * number) for charge in charges]
