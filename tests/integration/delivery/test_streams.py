"""Streams that get no wake-up, and connections that are dead without saying so."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from keypost_services.delivery.connecting import servers_at
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.receiving import Device
from keypost_services.delivery.wake_ups import WakeUpSubscriptions
from support.mailboxes import BOB, append, open_mailboxes, posting
from support.receiving import new_receiving, silence
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from keypost_services.delivery.mailboxes import Waiting


class Outlet:
    """Collects what a device gets."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[list[bytes]] = asyncio.Queue()

    async def batch(self, waiting: Sequence[Waiting]) -> None:
        self.words.put_nowait([one.envelope for one in waiting])

    async def queue_empty(self) -> None:
        self.words.put_nowait([])


@contextlib.asynccontextmanager
async def receiving(mailboxes: Any, **options: Any) -> AsyncIterator[Outlet]:
    streams = new_receiving(mailboxes, **options)
    outlet = Outlet()
    task = asyncio.ensure_future(streams.receive(Device(BOB, 256, silence(), outlet)))
    try:
        async with asyncio.timeout(10):
            yield outlet
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_wake_up_delays_and_never_loses(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url) as replica, receiving(replica.mailboxes, look_seconds=0.1) as outlet:
            assert await outlet.words.get() == []
            async with Redis.from_url(server.url) as client:  # as if the message had been published to nobody
                await client.xadd(f"keypost:{{{BOB}}}:waiting", {"t": "1800000000000", "e": "quiet"}, "1800000000000-1")
            assert await outlet.words.get() == [b"quiet"]
            assert replica.wake_ups in ([], [1])  # the stream's own claim at most


async def test_without_the_reading_now_and_then_it_would_wait_for_the_wake_up(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url) as replica, receiving(replica.mailboxes, look_seconds=60) as outlet:
            assert await outlet.words.get() == []
            await append(replica.mailboxes, posting(b"woken"))
            assert await outlet.words.get() == [b"woken"]


async def test_a_pub_sub_connection_that_hangs_is_given_up(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with (
            servers_at(server.url, FunctionLibrary(), connect_seconds=0.2, answer_seconds=0.2) as servers,
            WakeUpSubscriptions(servers, lambda: None, lambda: 0.0, quiet_seconds=0.1) as subscriptions,
            asyncio.timeout(10),
            subscriptions.subscribed("channel") as wake_ups,
        ):
            await wake_ups.wait()
            server.freeze()
            await wake_ups.wait()
            server.thaw()
            await wake_ups.wait()


async def test_a_quiet_pub_sub_connection_that_answers_is_kept(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with (
            servers_at(server.url, FunctionLibrary()) as servers,
            WakeUpSubscriptions(servers, lambda: None, lambda: 0.0, quiet_seconds=0.05) as subscriptions,
            subscriptions.subscribed("channel") as wake_ups,
        ):
            await wake_ups.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.6):
                    await wake_ups.wait()
                    raise AssertionError("the connection was given up")
