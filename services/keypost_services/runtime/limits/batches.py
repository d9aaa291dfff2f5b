"""What the batches of a stream take: a stream is slowed where a call would be refused."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

from keypost.clock import SECOND
from keypost_services.runtime.limits.table import UNKNOWN_USERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from keypost_services.runtime.errors import ServiceError
    from keypost_services.runtime.limits.ports import Charge, Limiter, Shortage

LONGEST_PAUSE_MS = SECOND
"""So long at most until it is asked again: there may be more by then than was to be expected."""

_charges: ContextVar[BatchCharges] = ContextVar("keypost_batch_charges")


class BatchCharges:
    """What the batches of one stream of one caller take.

    Args:
        limiter: Counts.
        charges: What so many items take.
        refusal: Makes the refusal for want of something that is not worth waiting for.
        book: Counts users that do not exist.
        slowed: Called for each pause.
        sleep: Waits, seconds.
    """

    def __init__(
        self,
        limiter: Limiter,
        charges: Callable[[int], Sequence[Charge]],
        refusal: Callable[[Shortage], ServiceError],
        book: Callable[[Collection[str]], Awaitable[None]],
        slowed: Callable[[], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limiter = limiter
        self._charges = charges
        self._refusal = refusal
        self._book = book
        self._slowed = slowed
        self._sleep = sleep

    async def take(self, number: int) -> None:
        """Take what so many items cost, in one question; return when it was there.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED with RATE_LIMITED: too many users were named that do not exist.
        """
        charges = self._charges(number)
        while charges and (shortage := await self._limiter.take(charges)) is not None:
            if shortage.limit == UNKNOWN_USERS:
                raise self._refusal(shortage)
            self._slowed()
            await self._sleep(min(shortage.retry_after_ms, LONGEST_PAUSE_MS) / SECOND)

    async def unknown(self, username: str) -> None:
        """Count a user whom a batch named and who does not exist: before the next one is looked up.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED with RATE_LIMITED: there were too many.
        """
        await self._book([username])
        left = [charge for charge in self._charges(0) if charge.limit == UNKNOWN_USERS]
        if left and (shortage := await self._limiter.take(left)) is not None:
            raise self._refusal(shortage)


def batch_charges() -> BatchCharges:
    """Return what the batches of the stream take that is being served.

    Raises:
        LookupError: no stream is being served here that takes batches.
    """
    return _charges.get()


def set_batch_charges(charges: BatchCharges) -> None:
    """Say what the batches of the stream take that this task serves (the limits' business, and tests')."""
    _charges.set(charges)
