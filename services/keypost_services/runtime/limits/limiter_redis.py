"""Limits in Redis (the limits role), shared by all replicas: one script, one round trip, the server's clock.

Every key has a lifetime: it ends when its bucket is full, which is what a missing one means.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib import resources
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from keypost.clock import SECOND
from keypost_services.runtime.limits.ports import LimitsAwayError, Shortage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis.asyncio import Redis

    from keypost.clock import Clock
    from keypost_services.runtime.limits.ports import Charge

MOST_AT_ONCE = 64
"""Fewer than the client may open connections: who waits for one is not told that there are none."""


class RedisLimiter:
    """A Limiter in Redis or Valkey.

    Args:
        redis: A client that does not decode answers.
        realm: Part of every key.
        timeout_ms: How long to wait for an answer.
        clock: The time, where a test moves it; by default the server's.
    """

    def __init__(self, redis: Redis, *, realm: str, timeout_ms: int, clock: Clock | None = None) -> None:
        text = resources.files(__package__).joinpath("take.lua").read_text(encoding="utf-8")
        self._script = redis.register_script(text)
        self._prefix = f"kl:{realm}:"
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)

    def spend(self, charges: Sequence[Charge]) -> bool:
        """Nothing is taken ahead here."""
        del charges
        return False

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        """Take all of this, or nothing."""
        number, wait_ms = await self._run(charges, force=False)
        return Shortage(charges[number - 1].limit, wait_ms) if number else None

    async def book(self, charges: Sequence[Charge]) -> None:
        """Take all of this, or give it back."""
        await self._run(charges, force=True)

    async def _run(self, charges: Sequence[Charge], *, force: bool) -> tuple[int, int]:
        if not charges:
            return 0, 0
        keys = [f"{self._prefix}{charge.bucket}" for charge in charges]
        numbers = [n for charge in charges for n in (charge.quota.interval, charge.quota.most, charge.cost)]
        now = "" if self._clock is None else self._clock() * SECOND
        async with self._call():
            number, wait_ms = await self._script(keys=keys, args=[now, int(force), *numbers])
        return int(number), int(wait_ms)

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_ms / SECOND), self._at_once:
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise LimitsAwayError(f"Redis: {type(error).__name__}") from error
