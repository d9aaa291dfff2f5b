from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.servers import OneServer
from keypost_services.delivery.wake_ups import WakeUpSubscriptions


class BreakingClient:
    """Fails to connect once, then says so that it was asked again."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self.asked_again = asyncio.Event()
        self._asked = False

    async def aclose(self) -> None:
        pass

    @property
    def connection_pool(self) -> Any:
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
    async with (
        OneServer(client, FunctionLibrary()) as servers,
        WakeUpSubscriptions(servers, lambda: None, lambda: 0.0) as subscriptions,
        subscriptions.subscribed("channel"),
        asyncio.timeout(10),
    ):
        await client.asked_again.wait()
