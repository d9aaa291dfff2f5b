"""Wake-ups over one sharded pub/sub connection a server, shared by all open streams.

A subscription that is confirmed wakes its channel: what was published before it stood, or while the connection was
away, is made up for by reading. So a reconnect needs no case of its own, nor does a mailbox that has moved to another
server of a cluster: it is subscribed to there.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from keypost_services.delivery.feeds import Feed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from types import TracebackType

    from redis.exceptions import MovedError

    from keypost_services.delivery.servers import Server, Servers

QUIET_SECONDS = 15.0


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
    """Subscribes to channels while somebody watches them. To be entered once; leaving ends the connections.

    Args:
        servers: The servers.
        counted: Called once a wake-up received.
        jitter: Returns a number from 0 to 1, to spread reconnects.
        quiet_seconds: After so long without a word a server is asked for one; after as long again the connection
            counts as lost.
    """

    def __init__(
        self,
        servers: Servers,
        counted: Callable[[], None],
        jitter: Callable[[], float],
        *,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._servers = servers
        self._counted = counted
        self._jitter = jitter
        self._quiet_seconds = quiet_seconds
        self._watchers: dict[str, set[_Watcher]] = {}
        self._feeds: dict[Server, Feed] = {}
        self._placed: dict[str, Server] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._servers.on_change(self._place_all)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchers.clear()
        await asyncio.gather(*(feed.close() for feed in self._feeds.values()), *self._closing)
        self._feeds.clear()

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[_Watcher]:
        """Watch a channel for as long as the context lasts."""
        watcher = _Watcher()
        if channel in self._watchers:
            watcher.wake()  # the subscription may stand already; then no confirmation will come
        self._watchers.setdefault(channel, set()).add(watcher)
        self._place(channel)
        try:
            yield watcher
        finally:
            watchers = self._watchers.get(channel, set())
            watchers.discard(watcher)
            if not watchers:
                self._watchers.pop(channel, None)
                self._take_away(channel)

    def _place(self, channel: str) -> None:
        """Have a watched channel subscribed to where it is now."""
        server, before = self._servers.server_of(channel), self._placed.get(channel)
        if server is None or server is before:
            return  # if none has it, it is placed when one has
        self._take_away(channel)
        self._placed[channel] = server
        self._feed(server).want(channel)

    def _take_away(self, channel: str) -> None:
        before = self._placed.pop(channel, None)
        if before in self._feeds:
            self._feeds[before].drop(channel)

    def _place_all(self) -> None:
        """Have every channel subscribed to where it is now; end the feeds of servers that have none any more."""
        for channel in self._watchers:
            self._place(channel)
        for server in self._feeds.keys() - set(self._servers.serving):
            # What has no other place yet is subscribed to anew even if the same server comes back.
            self._placed = {channel: placed for channel, placed in self._placed.items() if placed is not server}
            closing = asyncio.create_task(self._feeds.pop(server).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _feed(self, server: Server) -> Feed:
        if server not in self._feeds:
            self._feeds[server] = Feed(server, self, self._jitter, quiet_seconds=self._quiet_seconds)
        return self._feeds[server]

    def wake(self, channel: str, *, published: bool) -> None:
        """Wake who watches a channel."""
        if published:
            self._counted()
        for watcher in self._watchers.get(channel, ()):
            watcher.wake()

    def doubt(self, channels: Collection[str]) -> None:
        """Wake who watches these channels, and have it found out where they are."""
        for channel in channels:
            self.wake(channel, published=False)
        self._servers.doubt()

    def moved(self, error: MovedError) -> None:
        """Take note of where a slot is now."""
        self._servers.moved(error)
