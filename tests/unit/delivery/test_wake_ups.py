from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.servers import OneServer, Server
from keypost_services.delivery.wake_ups import WakeUpSubscriptions

if TYPE_CHECKING:
    from collections.abc import Callable


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


class ComingAndGoing:
    """Servers of which there is one, or for a while none; it counts how often a connection was asked of it."""

    def __init__(self) -> None:
        self.connections = 0
        self.connected = asyncio.Event()
        self.server: Any = Server("one", self, FunctionLibrary())  # type: ignore[arg-type]
        self.serving = [self.server]
        self._changed: Callable[[], None] = lambda: None

    @property
    def connection_pool(self) -> Any:
        self.connections += 1
        self.connected.set()
        raise RedisConnectionError

    def server_of(self, _channel: str) -> Any:
        return self.serving[0] if self.serving else None

    def on_change(self, callback: Callable[[], None]) -> None:
        self._changed = callback

    def doubt(self) -> None: ...

    async def away(self) -> None:
        self.serving = []
        self._changed()
        await asyncio.sleep(0)
        self.connected.clear()

    def back(self) -> None:
        self.serving = [self.server]
        self._changed()


async def test_a_channel_is_subscribed_to_anew_when_its_server_comes_back() -> None:
    servers = ComingAndGoing()
    subscriptions = WakeUpSubscriptions(servers, lambda: None, lambda: 0.0)  # type: ignore[arg-type]
    async with subscriptions, subscriptions.subscribed("channel"), asyncio.timeout(5):
        await servers.connected.wait()
        await servers.away()
        servers.back()
        await servers.connected.wait()
