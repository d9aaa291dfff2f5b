"""Wake-ups over one sharded pub/sub connection a process, shared by all open streams.

A subscription that is confirmed wakes its channel: what was published before it stood, or while the connection was
away, is made up for by reading. So a reconnect needs no case of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

QUIET_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class _Watcher:
    """One stream's end of a subscription."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    async def wait(self) -> None:
        await self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


class WakeUpSubscriptions:
    """Subscribes to channels while somebody watches them. To be entered once; leaving ends the connection.

    Args:
        client: A client of the server that returns bytes.
        counted: Called once a wake-up received.
        jitter: Returns a number from 0 to 1, to spread reconnects.
        quiet_seconds: After so long without a word the server is asked for one; after as long again the connection
            counts as lost.
    """

    def __init__(
        self,
        client: Redis,
        counted: Callable[[], None],
        jitter: Callable[[], float],
        *,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._client = client
        self._counted = counted
        self._jitter = jitter
        self._quiet_seconds = quiet_seconds
        self._watchers: dict[str, set[_Watcher]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="wake-ups")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[_Watcher]:
        """Watch a channel for as long as the context lasts."""
        watcher = _Watcher()
        if channel in self._watchers:
            watcher.wake()  # the subscription may stand already; then no confirmation will come
        self._watchers.setdefault(channel, set()).add(watcher)
        self._changed.set()
        try:
            yield watcher
        finally:
            self._watchers[channel].discard(watcher)
            if not self._watchers[channel]:
                del self._watchers[channel]
            self._changed.set()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = asyncio.get_running_loop().time()
            # Whatever it was, streams wait for wake-ups as long as the process lives: redis-py lets through what is no
            # error of its own when a connection breaks while one task reads and another subscribes.
            with contextlib.suppress(Exception):
                await self._connected()
            self._wake_all()
            if asyncio.get_running_loop().time() - started > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _connected(self) -> None:
        """Follow the watchers' channels over one connection until it fails."""
        async with self._client.pubsub() as pubsub:
            await pubsub.connect()
            reading = asyncio.create_task(self._read(pubsub))
            try:
                await self._subscribe(pubsub, reading)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _subscribe(self, pubsub: PubSub, reading: asyncio.Task[None]) -> None:
        """Keep the server's subscriptions equal to the watched channels; returns when reading has ended."""
        held: set[str] = set()
        while not reading.done():
            self._changed.clear()
            wanted = set(self._watchers)
            if new := wanted - held:
                await pubsub.ssubscribe(*new)
            if gone := held - wanted:
                await pubsub.sunsubscribe(*gone)
            held = wanted
            await _first(reading, self._changed)

    async def _read(self, pubsub: PubSub) -> None:
        loop, quiet = asyncio.get_running_loop(), 0
        while quiet < 2:  # noqa: PLR2004  # one question, one more chance
            started = loop.time()
            message = await pubsub.get_message(timeout=self._quiet_seconds)
            if message is None and loop.time() - started >= self._quiet_seconds:
                quiet += 1
                await pubsub.ping()
                continue
            quiet = 0  # nothing, but sooner, is the answer to the client's own question
            if message and message["type"] in ("smessage", "ssubscribe"):
                self._wake(message["channel"].decode(), published=message["type"] == "smessage")

    def _wake(self, channel: str, *, published: bool) -> None:
        if published:
            self._counted()
        for watcher in self._watchers.get(channel, ()):
            watcher.wake()

    def _wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.wake()


async def _first(task: asyncio.Task[None], event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
