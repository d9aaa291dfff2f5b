"""One server's wake-ups: a sharded pub/sub connection whose subscriptions follow what is wanted of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from redis.crc import key_slot
from redis.exceptions import MovedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from redis.asyncio.connection import AbstractConnection

    from keypost_services.delivery.servers import Server

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
AGAIN_SECONDS = 0.2
MOST_AT_ONCE = 500


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
            await asyncio.sleep(pause * (0.5 + self._jitter() / 2))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _connected(self) -> None:
        """Follow what is wanted over one connection until it fails."""
        self._held.clear()
        self._touched = set(self._wanted)
        self._changed.set()
        connection = self._server.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            reading = asyncio.create_task(self._read(connection))
            try:
                await self._subscribe(connection, reading)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        finally:
            await connection.disconnect(nowait=True)

    async def _subscribe(self, connection: AbstractConnection, reading: asyncio.Task[None]) -> None:
        """Keep the server's subscriptions equal to what is wanted; returns when reading has ended."""
        while not reading.done():
            self._changed.clear()
            some = [self._touched.pop() for _ in range(min(len(self._touched), MOST_AT_ONCE))]
            new = [channel for channel in some if channel in self._wanted and channel not in self._held]
            gone = [channel for channel in some if channel not in self._wanted and channel in self._held]
            self._held.update(new)
            self._held.difference_update(gone)
            # One a command, for channels of several slots may not stand in one; but all of them in one go.
            commands = [("SSUBSCRIBE", channel) for channel in new] + [("SUNSUBSCRIBE", channel) for channel in gone]
            if commands:
                await _send(connection, commands)
            if not self._touched:
                await _first(reading, self._changed)

    async def _read(self, connection: AbstractConnection) -> None:
        quiet = 0
        while quiet < 2:  # noqa: PLR2004  # one question, one more chance
            try:
                message = await connection.read_response(
                    timeout=self._quiet_seconds, disconnect_on_error=False, push_request=True
                )
            except MovedError as error:
                self._lose([channel for channel in self._held if key_slot(channel.encode()) == error.slot_id])
                self._listener.moved(error)
                continue
            if message is None:
                quiet += 1
                await _send(connection, [("PING",)])
                continue
            quiet = 0
            if isinstance(message, list) and len(message) > 1 and message[1]:  # not the answer to PING
                self._take(message[0], message[1].decode())

    def _take(self, kind: bytes, channel: str) -> None:
        if kind in (b"smessage", b"ssubscribe"):
            self._listener.wake(channel, published=kind == b"smessage")
        elif kind == b"sunsubscribe" and channel in self._held:  # not asked for: the slot has gone elsewhere
            self._lose([channel])

    def _lose(self, channels: Collection[str]) -> None:
        """Take note that subscriptions are gone; those that are still wanted here are asked for again soon."""
        lost = set(channels)
        self._held -= lost
        self._listener.doubt(lost & self._wanted)
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._want_again, lost)

    def _want_again(self, channels: set[str]) -> None:
        self._touched |= channels
        self._changed.set()


async def _send(connection: AbstractConnection, commands: Sequence[tuple[str, ...]]) -> None:
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)


async def _first(task: asyncio.Task[None], event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
