"""The Valkey adapter when the server dies, hangs, loses its functions, or does not keep what it should."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY
from keypost_services.delivery.connecting import servers_at
from keypost_services.delivery.durability import MailboxServerRefusedError, check_mailbox_servers
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.mailboxes import (
    BEGINNING,
    Acceptance,
    Claim,
    Durability,
    Load,
    MailboxesOutOfMemoryError,
    MailboxesUnavailableError,
    MailboxLimits,
    Outcome,
    Page,
)
from support.mailboxes import BOB, BOB_TABLET, NOW, append, foresee, new_name, open_mailboxes, posting
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keypost_services.delivery.functions import Call

CLAIM = Claim(BOB, "stream-1", 1)


async def test_offline_storage_survives_a_power_cut(tmp_path: Path) -> None:
    with running_valkey(tmp_path, appendonly="yes", appendfsync="always") as server:
        name = new_name()
        async with open_mailboxes(server.url, durability=Durability.FSYNC) as replica:
            for body in (b"1", b"2"):
                await append(replica.mailboxes, posting(body))
            await append(replica.mailboxes, posting(b"3", name=name))
            server.kill()
            with pytest.raises(MailboxesUnavailableError):
                await append(replica.mailboxes, posting(b"4"))
            server.start()
            again = await append(replica.mailboxes, posting(b"3", name=name))
            assert again[BOB].outcome is Outcome.DUPLICATE
            found = await replica.mailboxes.read(CLAIM, BEGINNING, Page(256), 0)
            assert [waiting.envelope for waiting in found] == [b"1", b"2", b"3"]
            assert (await replica.mailboxes.waiting(BOB)).size == 3


async def test_functions_that_the_server_lost_are_put_back(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url) as replica:
            await replica.client.function_flush()
            answer = await append(replica.mailboxes, posting(b"x", BOB, BOB_TABLET))
            assert {acceptance.outcome for acceptance in answer.values()} == {Outcome.APPENDED}


async def test_wake_ups_come_back_after_the_server_does(tmp_path: Path) -> None:
    with running_valkey(tmp_path, appendonly="yes", appendfsync="always") as server:
        async with open_mailboxes(server.url) as replica, replica.mailboxes.watch(BOB) as wake_ups:
            async with asyncio.timeout(20):
                await wake_ups.wait()
                server.kill()
                await wake_ups.wait()  # losing the connection is a reason to look
                server.start()
                await wake_ups.wait()
                while not replica.wake_ups:
                    await append(replica.mailboxes, posting(b"x"))
                    await wake_ups.wait()


async def test_a_message_wakes_the_receiver_at_another_replica(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with (
            asyncio.timeout(5),
            open_mailboxes(server.url) as one,
            open_mailboxes(server.url) as other,
            other.mailboxes.watch(BOB) as wake_ups,
        ):
            await wake_ups.wait()
            await append(one.mailboxes, posting(b"x"))
            await wake_ups.wait()
            assert len(other.wake_ups) == 1
            assert one.wake_ups == []


async def test_nobody_watching_means_no_subscription(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url) as replica, asyncio.timeout(5):
            async with replica.mailboxes.watch(BOB) as wake_ups, replica.mailboxes.watch(BOB_TABLET):
                await wake_ups.wait()
            while await replica.client.pubsub_shardchannels():
                await replica.client.ping()


async def test_a_call_that_is_repeated_holds_up_nobody_elses_message(tmp_path: Path) -> None:
    """As in a cluster where one slot is being moved: its call is tried again and again, for seconds."""
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url) as replica, asyncio.timeout(20):
            servers, moved = replica.mailboxes._servers, asyncio.Event()
            run, first = servers.run, True

            async def repeated(calls: Sequence[Call], replica_timeout: int | None = None) -> Sequence[Any]:
                nonlocal first
                waits, first = first, False
                if waits:
                    await moved.wait()
                return await run(calls, replica_timeout)

            servers.run = repeated  # type: ignore[method-assign]
            held_up = asyncio.create_task(append(replica.mailboxes, posting(b"1")))
            await asyncio.sleep(0)
            others = [append(replica.mailboxes, posting(b"2", BOB_TABLET)) for _ in range(3)]
            assert [answer[BOB_TABLET].outcome for answer in await asyncio.gather(*others)] == [Outcome.APPENDED] * 3
            assert not held_up.done()
            moved.set()
            assert (await held_up)[BOB].outcome is Outcome.APPENDED


async def test_a_mailbox_that_nobody_uses_ends(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url) as replica:
            await append(replica.mailboxes, posting(b"x"))
            await replica.mailboxes.claim(CLAIM)
            lifetimes = {key: await replica.client.pttl(key) async for key in replica.client.scan_iter()}
            assert len(lifetimes) == 5
            assert all(0 < lifetime <= 31 * DAY for lifetime in lifetimes.values())


async def test_replicated_refuses_without_a_replica_and_accepts_with_one(tmp_path: Path) -> None:
    options = {"appendonly": "yes", "appendfsync": "always", "repl_diskless_sync_delay": "0"}
    with running_valkey(tmp_path / "primary", **options) as primary:
        async with open_mailboxes(primary.url, durability=Durability.REPLICATED, replica_timeout=100) as alone:
            name = new_name()
            with pytest.raises(MailboxesUnavailableError, match="replica"):
                await append(alone.mailboxes, posting(b"x", name=name))
        with running_valkey(tmp_path / "replica", replicaof=f"127.0.0.1 {primary.port}", **options) as replica:
            async with open_mailboxes(primary.url, durability=Durability.REPLICATED, replica_timeout=8_000) as pair:
                answer = await append(pair.mailboxes, posting(b"x", name=name))
                assert answer[BOB].outcome is Outcome.DUPLICATE
                answer = await append(pair.mailboxes, posting(b"y", BOB, BOB_TABLET))
                assert {acceptance.outcome for acceptance in answer.values()} == {Outcome.APPENDED}
            async with (
                open_mailboxes(primary.url, durability=Durability.REPLICATED, replica_timeout=1_500) as one,
                open_mailboxes(primary.url, durability=Durability.REPLICATED, replica_timeout=1_500) as other,
                open_mailboxes(primary.url, durability=Durability.REPLICATED, replica_timeout=1_500) as third,
            ):
                for opened in (one, other, third):
                    await append(opened.mailboxes, posting(b"in step"))
                replica.freeze()
                name = new_name()
                # A repetition promises no less, over a connection that wrote nothing, be it sealed again.
                for opened, body in ((one, b"z"), (other, b"z"), (third, b"sealed again")):
                    with pytest.raises(MailboxesUnavailableError, match="replica"):
                        await append(opened.mailboxes, posting(body, name=name))
                replica.thaw()


async def test_a_server_that_hangs_is_unavailable(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        async with open_mailboxes(server.url, answer_seconds=0.2) as replica:
            server.freeze()
            with pytest.raises(MailboxesUnavailableError):
                await replica.mailboxes.waiting(BOB)
            server.thaw()


async def test_a_server_out_of_memory_takes_nothing_in_and_hands_out_what_it_has(tmp_path: Path) -> None:
    with running_valkey(tmp_path, maxmemory="4mb", maxmemory_policy="noeviction") as server:
        async with open_mailboxes(server.url, limits=MailboxLimits(size=64 * 1024 * 1024)) as replica:
            mailboxes, refused, stored = replica.mailboxes, None, 0
            while refused is None:
                message = posting(b"x" * 100_000, BOB, BOB_TABLET)
                try:
                    await append(mailboxes, message)
                    stored += 1
                except MailboxesOutOfMemoryError:
                    refused = message
            known = await mailboxes.find(refused.name, [BOB, BOB_TABLET], 0)
            held = {address: await mailboxes.waiting(address) for address in (BOB, BOB_TABLET)}
            for address, load in held.items():  # what was taken in was taken in whole
                assert load == Load(stored + (address in known), 100_000 * load.messages)
            await replica.client.config_set("maxmemory", "1mb")
            for judge in (append, foresee):
                with pytest.raises(MailboxesOutOfMemoryError):
                    await judge(mailboxes, refused)
            await mailboxes.claim(CLAIM)
            found = await mailboxes.read(CLAIM, BEGINNING, Page(256, 64 * 1024 * 1024), 0)
            assert len(found) == held[BOB].messages
            assert await mailboxes.acknowledge(BOB, [waiting.delivery_id for waiting in found]) == len(found)
            assert await mailboxes.empty(BOB_TABLET) == held[BOB_TABLET].messages
            await mailboxes.release(CLAIM)
            await replica.client.config_set("maxmemory", "4mb")
            assert set((await append(mailboxes, refused)).values()) <= {
                Acceptance(Outcome.APPENDED, NOW),
                Acceptance(Outcome.DUPLICATE, NOW),
            }


FIT = {
    Durability.MEMORY: {},
    Durability.PROCESS: {"appendonly": "yes", "appendfsync": "everysec"},
    Durability.FSYNC: {"appendonly": "yes", "appendfsync": "always"},
    Durability.REPLICATED: {"appendonly": "yes", "appendfsync": "everysec"},
}


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_fit_server_is_accepted(tmp_path: Path, durability: Durability) -> None:
    with running_valkey(tmp_path, maxmemory_policy="noeviction", **FIT[durability]) as server:
        async with servers_at(server.url, FunctionLibrary()) as servers:
            await check_mailbox_servers(servers, durability)


@pytest.mark.parametrize(
    ("durability", "options", "complaint"),
    [
        (Durability.MEMORY, {"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru"),
        (
            Durability.FSYNC,
            {"maxmemory_policy": "volatile-ttl", **FIT[Durability.FSYNC]},
            "maxmemory-policy volatile-ttl",
        ),
        (Durability.FSYNC, {"appendonly": "no", "appendfsync": "always"}, "appendonly no"),
        (Durability.FSYNC, {"appendonly": "yes", "appendfsync": "everysec"}, "appendfsync everysec"),
        (Durability.PROCESS, {"appendonly": "no"}, "appendonly no"),
        (Durability.PROCESS, {"appendonly": "yes", "appendfsync": "no"}, "appendfsync no"),
        (Durability.REPLICATED, {"appendonly": "no"}, "appendonly no"),
    ],
)
async def test_an_unfit_server_is_refused_in_one_line(
    tmp_path: Path, durability: Durability, options: dict[str, str], complaint: str
) -> None:
    with running_valkey(tmp_path, **options) as server:
        async with servers_at(server.url, FunctionLibrary()) as servers:
            with pytest.raises(MailboxServerRefusedError, match=complaint) as refusal:
                await check_mailbox_servers(servers, durability)
            assert "\n" not in str(refusal.value)


async def test_a_server_that_is_away_is_refused(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        url = server.url
    async with servers_at(url, FunctionLibrary()) as servers:
        with pytest.raises(MailboxServerRefusedError, match="does not tell"):
            await check_mailbox_servers(servers, Durability.MEMORY)
