"""Limits whose server may be away: noticed once for all calls, and then decided without it, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from keypost_services.runtime.errors import limits_unavailable
from keypost_services.runtime.limits.ports import LimitsAwayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from keypost_services.runtime.breaker import Breaker
    from keypost_services.runtime.limits.metrics import LimitMetrics
    from keypost_services.runtime.limits.ports import Charge, Limiter, Shortage

T = TypeVar("T")


class WatchedLimiter:
    """A Limiter over another one; while that one is away one call in a while asks it, and the others do not wait.

    Args:
        limiter: The other one.
        breaker: Says when to ask again.
        on_change: Called with a sentence when the other one is away, and with None when it is back.
        metrics: Measures the questions.
    """

    def __init__(
        self, limiter: Limiter, breaker: Breaker, on_change: Callable[[str | None], None], metrics: LimitMetrics
    ) -> None:
        self._limiter = limiter
        self._breaker = breaker
        self._on_change = on_change
        self._metrics = metrics

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Take all of this out of what was taken ahead; return whether it was there."""
        return self._limiter.spend(charges)

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing; raises LimitsAwayError."""
        return await self._ask(lambda: self._limiter.take(charges))

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this, or give it back; raises LimitsAwayError."""
        await self._ask(lambda: self._limiter.book(charges))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        if not self._breaker.admit():
            raise LimitsAwayError("it did not answer a moment ago")
        try:
            with self._metrics.seconds.time():
                answer = await question()
        except LimitsAwayError as error:
            self._breaker.failed()
            self._on_change(str(error))
            raise
        if self._breaker.is_away:
            self._breaker.succeeded()
            self._on_change(None)
        return answer


class FallingBackLimiter:
    """A Limiter that counts in this process while the shared one is away: calls go on, each replica for itself.

    Args:
        shared: The one of all replicas.
        local: The one of this process.
        metrics: Counts what was decided here.
    """

    def __init__(self, shared: Limiter, local: Limiter, metrics: LimitMetrics) -> None:
        self._shared = shared
        self._local = local
        self._metrics = metrics

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Take all of this out of what was taken ahead; return whether it was there."""
        return self._shared.spend(charges)

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing, here if not there."""
        try:
            return await self._shared.take(charges)
        except LimitsAwayError:
            self._metrics.away.labels("local").inc()
            return await self._local.take(charges)

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this, or give it back, here if not there."""
        try:
            await self._shared.book(charges)
        except LimitsAwayError:
            self._metrics.away.labels("local").inc()
            await self._local.book(charges)


class RefusingLimiter:
    """A Limiter that refuses while the shared one is away: for calls by which somebody could guess.

    Args:
        shared: The one of all replicas.
        metrics: Counts what was refused.
    """

    def __init__(self, shared: Limiter, metrics: LimitMetrics) -> None:
        self._shared = shared
        self._metrics = metrics

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Take all of this out of what was taken ahead; return whether it was there."""
        return self._shared.spend(charges)

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing.

        Raises:
            ServiceError: UNAVAILABLE with LIMITS_UNAVAILABLE.
        """
        try:
            return await self._shared.take(charges)
        except LimitsAwayError as error:
            self._metrics.away.labels("refused").inc()
            raise limits_unavailable() from error

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this, or give it back; if nobody counts it is lost, and the next call is refused anyway."""
        try:
            await self._shared.book(charges)
        except LimitsAwayError:
            self._metrics.away.labels("uncounted").inc()
