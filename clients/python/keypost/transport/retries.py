"""Deadlines, and retries with backoff and full jitter for calls that may be repeated."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc.aio

from keypost.transport.refusals import read_refusal

T = TypeVar("T")
Attempt = Callable[[float], Awaitable[T]]
"""One try at a call; gets its timeout in seconds."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait between attempts: at random between 0 and a bound that doubles (full jitter).

    Attributes:
        first: The first bound, seconds.
        longest: The last bound, seconds.
        uniform: Draws a number between two others.
    """

    first: float = 0.1
    longest: float = 5.0
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay(self, attempt: int, retry_after_ms: int | None = None) -> float:
        """Return the seconds to wait after attempt ``attempt`` (from 0), at least what the service asks."""
        bound = min(self.longest, self.first * 2.0 ** min(attempt, 32))
        jittered = self.uniform(0.0, bound)
        return jittered if retry_after_ms is None else retry_after_ms / 1000 + jittered


@dataclass(frozen=True)
class Retries:
    """Makes calls with a deadline and repeats those that may be repeated.

    Attributes:
        attempts: How often a call is tried at most.
        attempt_timeout: Seconds that one attempt may take.
        deadline: Seconds that a call may take with all its attempts and waits.
        patience: Seconds for which a message that is to be sent waits for its outcome while nothing goes through.
        backoff: How long to wait between attempts.
        sleep: Waits for seconds.
        monotonic: Returns seconds that only go forward.
    """

    attempts: int = 5
    attempt_timeout: float = 10.0
    deadline: float = 30.0
    patience: float = 30.0
    backoff: Backoff = Backoff()
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    monotonic: Callable[[], float] = time.monotonic

    async def make(self, attempt: Attempt[T], service: str, endpoint: str = "") -> T:
        """Make a call.

        Args:
            attempt: Makes one attempt with the timeout that it gets, in seconds.
            service: The name of the service, for errors.
            endpoint: Where it is, for errors.

        Returns:
            What the first attempt that succeeded returned.

        Raises:
            RefusedError: The service refused, and repeating does not help or did not help in time.
            UnreachableError: The service did not answer.
        """
        end = self.monotonic() + self.deadline
        for number in range(self.attempts):
            remaining = end - self.monotonic()
            try:
                return await attempt(max(0.001, min(self.attempt_timeout, remaining)))
            except grpc.aio.AioRpcError as failure:
                refusal = read_refusal(failure, service, endpoint)
            delay = self.backoff.delay(number, refusal.retry_after_ms)
            last = number == self.attempts - 1
            if last or not refusal.retriable or self.monotonic() + delay >= end:
                raise refusal.error
            await self.sleep(delay)
        raise AssertionError
