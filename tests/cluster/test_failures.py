"""Mailboxes on a Valkey Cluster while its nodes fail and its slots move: nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import pytest
from redis.crc import key_slot

from keypost_services.delivery.connecting import servers_at
from keypost_services.delivery.durability import MailboxServerRefusedError, check_mailbox_servers
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.mailboxes import (
    BEGINNING,
    Backlog,
    Claim,
    Durability,
    MailboxesUnavailableError,
    MailboxLimits,
    Outcome,
    Page,
)
from keypost_services.delivery.store_valkey import channel_of
from support.mailbox_traffic import people, traffic
from support.mailboxes import NOW, OpenMailboxes, append, foresee, open_mailboxes, posting
from support.valkey import free_port, running_valkey
from support.valkey_cluster import Cluster, running_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LIMITS = MailboxLimits(100_000, 64 * 1024 * 1024)
SECONDS = 60


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own, which it may break."""
    with running_cluster(tmp_path) as running:
        yield running


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own whose nodes do not take each other for dead, however slow the machine is."""
    with running_cluster(tmp_path, settings={"cluster-node-timeout": "30000"}) as running:
        yield running


@contextlib.asynccontextmanager
async def two_replicas(cluster: Cluster, durability: Durability) -> AsyncIterator[tuple[OpenMailboxes, OpenMailboxes]]:
    """Two replicas of delivery: one that takes in, one that hands out."""
    async with (
        asyncio.timeout(SECONDS),
        open_mailboxes(cluster.url, limits=LIMITS, durability=durability, answer_seconds=2) as one,
        open_mailboxes(cluster.url, limits=LIMITS, answer_seconds=2) as other,
    ):
        yield one, other


async def test_a_master_is_lost_with_its_disk_and_nothing_answered_is(own: Cluster) -> None:
    async with (
        two_replicas(own, Durability.REPLICATED) as (one, other),
        traffic(one.mailboxes, other.mailboxes, 12) as conversations,
    ):
        lost = own.master_of(channel_of(conversations[0].address))
        await asyncio.to_thread(own.lose, lost)
        await asyncio.to_thread(own.wait_failed_over, lost)
        promoted = own.master_of(channel_of(conversations[0].address))
        await asyncio.to_thread(own.add_replica, promoted)  # without one nothing is replicated, and nothing answered
        await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))
    assert sum(conversation.failures for conversation in conversations) > 0


async def test_a_master_is_killed_and_comes_back_before_it_is_missed(own: Cluster) -> None:
    async with (
        two_replicas(own, Durability.REPLICATED) as (one, other),
        traffic(one.mailboxes, other.mailboxes, 12) as conversations,
    ):
        master = own.master_of(channel_of(conversations[0].address))
        await asyncio.to_thread(own.kill, master)
        await asyncio.to_thread(own.restart, master)
        await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))


async def test_a_master_hangs_and_is_replaced_and_its_last_words_count_for_nothing(own: Cluster) -> None:
    async with (
        two_replicas(own, Durability.REPLICATED) as (one, other),
        traffic(one.mailboxes, other.mailboxes, 12) as conversations,
    ):
        hanging = own.master_of(channel_of(conversations[0].address))
        own.freeze(hanging)
        await asyncio.to_thread(own.wait_until, lambda: own.is_replaced(hanging))
        own.thaw(hanging)  # as the replica that it is then
        await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))


async def test_a_master_hands_over_to_its_replica(own: Cluster) -> None:
    async with (
        two_replicas(own, Durability.REPLICATED) as (one, other),
        traffic(one.mailboxes, other.mailboxes, 12) as conversations,
    ):
        for master in own.masters:
            replica = own.replica_of(master)
            assert replica.ask("CLUSTER", "FAILOVER")
            await asyncio.to_thread(own.wait_until, partial(own.is_replaced, master))
            await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))


@pytest.mark.parametrize("way", ["key by key", "at once"])
async def test_slots_move_to_a_node_that_joined_and_back(patient: Cluster, way: str) -> None:
    """The node that joined has no functions."""
    (joined,) = patient.add_nodes(1)
    await asyncio.to_thread(patient.join, joined)
    move = patient.move_slot if way == "key by key" else patient.move_slot_at_once
    async with (
        two_replicas(patient, Durability.FSYNC) as (one, other),
        traffic(one.mailboxes, other.mailboxes, 6) as conversations,
    ):
        channels = [channel_of(conversation.address) for conversation in conversations[:4]]
        homes = {key_slot(channel.encode()): patient.master_of(channel) for channel in channels}
        for slot, home in homes.items():
            await asyncio.to_thread(move, slot, home, joined)
        await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))
        for slot, home in homes.items():
            await asyncio.to_thread(move, slot, joined, home)
        await asyncio.gather(*(conversation.wait_for_more() for conversation in conversations))


async def test_a_mailbox_of_which_half_has_moved_takes_nothing_until_the_rest_has(patient: Cluster) -> None:
    async with two_replicas(patient, Durability.FSYNC) as (one, _):
        (address,) = people(1)
        for body in (b"1", b"2"):
            await append(one.mailboxes, posting(body, address))
        slot = key_slot(channel_of(address).encode())
        source = patient.master_of(channel_of(address))
        target = next(master for master in patient.masters if master is not source)
        patient.begin_move(slot, source, target)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
        waiting = next(key for key in keys if key.endswith(":waiting"))
        patient.move_keys([waiting], source, target)
        third = posting(b"3", address)
        with pytest.raises(MailboxesUnavailableError, match="TryAgain"):
            await append(one.mailboxes, third)
        late = asyncio.create_task(append(one.mailboxes, third))
        patient.move_keys([key for key in keys if key != waiting], source, target)
        await asyncio.to_thread(patient.end_move, slot, source, target)
        assert (await late)[address].outcome is Outcome.APPENDED
        found = await one.mailboxes.read(Claim(address, "stream", 1), BEGINNING, Page(256), 0)
        assert [waiting.envelope for waiting in found] == [b"1", b"2", b"3"]


async def test_what_is_spread_over_the_nodes_is_asked_of_all_of_them(patient: Cluster) -> None:
    async with two_replicas(patient, Durability.FSYNC) as (one, _):
        addresses = people(30)
        assert len({patient.master_of(channel_of(address)) for address in addresses}) == 3
        message = posting(b"to all", *addresses)
        foreseen, stored = await foresee(one.mailboxes, message), await append(one.mailboxes, message)
        assert {acceptance.outcome for acceptance in [*foreseen.values(), *stored.values()]} == {Outcome.APPENDED}
        assert await one.mailboxes.find(message.name, addresses, 0) == dict.fromkeys(addresses, message.digest)
        assert await one.mailboxes.backlogs(addresses) == dict.fromkeys(addresses, Backlog(1, NOW))


async def test_with_a_node_away_what_the_others_have_is_stored(patient: Cluster) -> None:
    async with two_replicas(patient, Durability.FSYNC) as (one, _):
        addresses = people(30)
        away = patient.master_of(channel_of(addresses[0]))
        there = {address: patient.master_of(channel_of(address)) is not away for address in addresses}
        patient.freeze(away)
        results = await one.mailboxes.append_all([posting(b"x", address) for address in addresses])
        assert [not isinstance(result, MailboxesUnavailableError) for result in results] == list(there.values())
        patient.thaw(away)


async def test_every_node_must_be_fit(patient: Cluster) -> None:
    async with two_replicas(patient, Durability.FSYNC) as (one, _):
        await check_mailbox_servers(one.servers, Durability.FSYNC)
        replica = patient.replica_of(patient.masters[2])
        replica.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(MailboxServerRefusedError, match=f"{replica.port} has maxmemory-policy allkeys-lru"):
            await check_mailbox_servers(one.servers, Durability.FSYNC)
        patient.kill(replica)
        await check_mailbox_servers(one.servers, Durability.FSYNC)
        patient.masters[1].ask("CONFIG", "SET", "appendfsync", "everysec")
        with pytest.raises(MailboxServerRefusedError, match=f"{patient.masters[1].port} has appendfsync everysec"):
            await check_mailbox_servers(one.servers, Durability.FSYNC)
        patient.kill(patient.masters[1])
        with pytest.raises(MailboxServerRefusedError, match="does not tell"):
            await check_mailbox_servers(one.servers, Durability.FSYNC)


async def test_a_cluster_that_is_away_is_refused_at_the_start() -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with pytest.raises(MailboxesUnavailableError, match="no node of the cluster"):
        async with servers_at(url, FunctionLibrary()):
            raise AssertionError


async def test_a_single_server_is_no_cluster(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server, pytest.raises(MailboxesUnavailableError, match="cluster support disabled"):
        async with servers_at(f"redis+cluster://127.0.0.1:{server.port}", FunctionLibrary()):
            raise AssertionError
