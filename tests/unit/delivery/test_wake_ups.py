from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from keypost_services.delivery.wake_ups import WakeUpSubscriptions


class BreakingClient:
    """Fails to connect once, then says so that it was asked again."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.asked_again = asyncio.Event()
        self._asked = False

    def pubsub(self) -> Any:
        if not self._asked:
            self._asked = True
            raise self._failure
        self.asked_again.set()
        raise RedisConnectionError


@pytest.mark.parametrize(
    "failure", [RedisConnectionError(), OSError(), RuntimeError("another coroutine is already waiting")]
)
async def test_no_failure_of_the_connection_ends_the_wake_ups(failure: Exception) -> None:
    client: Any = BreakingClient(failure)
    async with WakeUpSubscriptions(client, lambda: None, lambda: 0.0), asyncio.timeout(10):
        await client.asked_again.wait()
