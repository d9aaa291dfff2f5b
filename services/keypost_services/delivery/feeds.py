"""One server's wake-ups: a sharded pub/sub connection whose subscriptions follow what is wanted of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from redis.crc import key_slot
from redis.exceptions import MovedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from redis.asyncio.client import PubSub

    from keypost_services.delivery.servers import Server

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Listener(Protocol):
    """Whom a feed tells what happens."""

    def wake(self, channel: str, *, published: bool) -> None:
        """Somebody published, or a subscription stands: what was published before is made up for by reading."""

    def doubt(self, channels: Collection[str]) -> None:
        """The server that has these channels may be another one by now."""

    def moved(self, error: MovedError) -> None:
        """The server says who has a slot now."""


class Feed:
    """Keeps the subscriptions at one server.

    Args:
        server: The server.
        listener: Who is told.
        jitter: Returns a number from 0 to 1, to spread reconnects.
        quiet_seconds: After so long without a word the server is asked for one; after as long again the connection
            counts as lost.
    """

    def __init__(
        self, server: Server, listener: Listener, jitter: Callable[[], float], *, quiet_seconds: float
    ) -> None:
        self._server = server
        self._listener = listener
        self._jitter = jitter
        self._quiet_seconds = quiet_seconds
        self._wanted: set[str] = set()
        self._held: set[str] = set()
        self._touched: set[str] = set()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"wake-ups {server.name}")

    def want(self, channel: str) -> None:
        """Subscribe to a channel."""
        self._wanted.add(channel)
        self._touch(channel)

    def drop(self, channel: str) -> None:
        """Unsubscribe from a channel."""
        self._wanted.discard(channel)
        self._touch(channel)

    def ensure(self, channel: str) -> None:
        """Subscribe to a wanted channel again if its subscription was lost."""
        if channel not in self._held:
            self._touch(channel)

    def _touch(self, channel: str) -> None:
        self._touched.add(channel)
        self._changed.set()

    async def close(self) -> None:
        """End the connection."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = asyncio.get_running_loop().time()
            # Whatever it was, streams wait for wake-ups as long as the process lives: redis-py lets through what is no
            # error of its own when a connection breaks while one task reads and another subscribes.
            with contextlib.suppress(Exception):
                await self._connected()
            self._listener.doubt(self._wanted)
            if asyncio.get_running_loop().time() - started > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _connected(self) -> None:
        """Follow what is wanted over one connection until it fails."""
        self._held.clear()
        self._touched = set(self._wanted)
        self._changed.set()
        async with self._server.client.pubsub() as pubsub:
            await pubsub.connect()
            reading = asyncio.create_task(self._read(pubsub))
            try:
                await self._subscribe(pubsub, reading)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _subscribe(self, pubsub: PubSub, reading: asyncio.Task[None]) -> None:
        """Keep the server's subscriptions equal to what is wanted; returns when reading has ended."""
        while not reading.done():
            self._changed.clear()
            touched, self._touched = self._touched, set()
            for channel in touched:  # one at a time: channels of several slots may not stand in one command
                if channel in self._wanted and channel not in self._held:
                    self._held.add(channel)
                    await pubsub.ssubscribe(channel)
                elif channel not in self._wanted and channel in self._held:
                    self._held.discard(channel)
                    await pubsub.sunsubscribe(channel)
            await _first(reading, self._changed)

    async def _read(self, pubsub: PubSub) -> None:
        loop, quiet = asyncio.get_running_loop(), 0
        while quiet < 2:  # noqa: PLR2004  # one question, one more chance
            started = loop.time()
            try:
                message = await pubsub.get_message(timeout=self._quiet_seconds)
            except MovedError as error:
                self._lost([channel for channel in self._held if key_slot(channel.encode()) == error.slot_id])
                self._listener.moved(error)
                continue
            if message is None and loop.time() - started >= self._quiet_seconds:
                quiet += 1
                await pubsub.ping()
                continue
            quiet = 0  # nothing, but sooner, is the answer to the client's own question
            if message and message["channel"] is not None:
                self._take(message["type"], message["channel"].decode())

    def _take(self, kind: str, channel: str) -> None:
        if kind in ("smessage", "ssubscribe"):
            self._listener.wake(channel, published=kind == "smessage")
        elif kind == "sunsubscribe" and channel in self._held:  # not asked for: the slot has gone elsewhere
            self._lost([channel])

    def _lost(self, channels: Collection[str]) -> None:
        lost = set(channels)
        self._held -= lost
        self._listener.doubt(lost & self._wanted)


async def _first(task: asyncio.Task[None], event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
