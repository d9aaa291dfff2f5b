"""Five thousand subscriptions on a Valkey Cluster, one of whose masters dies: every one is served again."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from keypost_services.delivery.mailboxes import MailboxesUnavailableError, MailboxLimits
from keypost_services.delivery.receiving import Device, Receiving
from keypost_services.delivery.store_valkey import channel_of
from support.mailbox_traffic import people
from support.mailboxes import OpenMailboxes, open_mailboxes, posting
from support.receiving import new_receiving, silence
from support.valkey_cluster import running_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.mailboxes import Mailboxes, Waiting

COUNT = 5_000
AT_ONCE = 500


class Stream:
    """A device that opens its stream again whenever it ends, and the outlet of that."""

    def __init__(self, receiving: Receiving, address: Address) -> None:
        self.address = address
        self.received = 0
        self._receiving = receiving
        self._open = asyncio.Event()
        self._got = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                await self._receiving.receive(Device(self.address, 256, silence(), self))
            except MailboxesUnavailableError:
                await asyncio.sleep(0.2)

    async def batch(self, waiting: Sequence[Waiting]) -> None:
        self.received += len(waiting)
        self._got.set()

    async def queue_empty(self) -> None:
        self._open.set()

    async def wait_open(self) -> None:
        await self._open.wait()

    async def wait_received(self, count: int) -> None:
        while self.received < count:
            self._got.clear()
            await self._got.wait()


def _server_of(replica: OpenMailboxes, address: Address) -> str:
    server = replica.servers.server_of(channel_of(address))
    assert server is not None
    return server.name


async def _send_to_all(mailboxes: Mailboxes, addresses: Sequence[Address]) -> None:
    """Store a message for everybody, as often as it takes."""
    left = [posting(b"x", address) for address in addresses]
    while left:
        results = await mailboxes.append_all(left[:AT_ONCE])
        failed = [
            one
            for one, result in zip(left[:AT_ONCE], results, strict=True)
            if isinstance(result, MailboxesUnavailableError)
        ]
        left = left[AT_ONCE:] + failed


class Watcher:
    """A subscription, and how often it was woken."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._woken = asyncio.Event()

    async def run(self, mailboxes: Mailboxes) -> None:
        async with mailboxes.watch(self.address) as wake_ups:
            while True:
                await wake_ups.wait()
                self._woken.set()

    async def wait_woken(self) -> None:
        await self._woken.wait()
        self._woken.clear()


async def test_five_thousand_subscriptions_outlive_their_node(tmp_path: Path) -> None:
    with running_cluster(tmp_path, settings={"appendfsync": "everysec"}) as cluster:
        async with (
            asyncio.timeout(90),
            open_mailboxes(cluster.url, limits=MailboxLimits()) as sender,
            open_mailboxes(cluster.url) as replica,
        ):
            watchers = [Watcher(address) for address in people(COUNT)]
            tasks = [asyncio.create_task(watcher.run(replica.mailboxes)) for watcher in watchers]
            await asyncio.gather(*(watcher.wait_woken() for watcher in watchers))

            lost = cluster.master_of(channel_of(watchers[0].address))
            concerned = [watcher for watcher in watchers if _server_of(replica, watcher.address) == lost.address]
            assert len(concerned) > COUNT / 4
            await asyncio.to_thread(cluster.kill, lost)
            await asyncio.gather(*(watcher.wait_woken() for watcher in concerned))  # whoever doubts looks

            await asyncio.to_thread(cluster.wait_failed_over, lost)
            promoted = cluster.master_of(channel_of(watchers[0].address))
            wanted = {channel_of(watcher.address) for watcher in concerned}
            await asyncio.to_thread(
                cluster.wait_until, lambda: wanted <= set(promoted.ask("PUBSUB", "SHARDCHANNELS")), 60
            )
            await asyncio.gather(*(watcher.wait_woken() for watcher in concerned))  # the subscription stands
            heard = len(replica.wake_ups)
            await _send_to_all(sender.mailboxes, [watcher.address for watcher in watchers])
            await asyncio.gather(*(watcher.wait_woken() for watcher in watchers))
            assert len(replica.wake_ups) - heard >= COUNT
            await _end(tasks)


async def test_streams_outlive_a_master(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        async with (
            asyncio.timeout(90),
            open_mailboxes(cluster.url, limits=MailboxLimits()) as sender,
            open_mailboxes(cluster.url) as replica,
        ):
            numbers = itertools.count()
            receiving = new_receiving(replica.mailboxes, lambda: str(next(numbers)), look_seconds=600)  # wake-ups alone
            streams = [Stream(receiving, address) for address in people(200)]
            addresses = [stream.address for stream in streams]
            tasks = [asyncio.create_task(stream.run()) for stream in streams]
            await asyncio.gather(*(stream.wait_open() for stream in streams))
            lost = cluster.master_of(channel_of(addresses[0]))
            await asyncio.to_thread(cluster.kill, lost)
            for expected in (1, 2):
                await _send_to_all(sender.mailboxes, addresses)
                await asyncio.gather(*(stream.wait_received(expected) for stream in streams))
            await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
