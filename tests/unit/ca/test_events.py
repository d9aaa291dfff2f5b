"""The feed of key events: complete, in order, alive."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from keypost.protocol.suites import WEAK
from keypost_services.ca.events import BATCH, EventFeed
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from keypost_services.ca.events import Batch
    from keypost_services.ca.store import Event
    from support.ca import CaBench


async def take(feed: EventFeed, after: int | None, batches: int) -> list[Batch]:
    taken: list[Batch] = []
    async with asyncio.timeout(10), aclosing(feed.watch(after)) as watching:  # type: ignore[type-var]
        async for batch in watching:
            taken.append(batch)
            if len(taken) == batches:
                break
    return taken


async def test_an_empty_batch_comes_at_once(bench: CaBench) -> None:
    (batch,) = await take(bench.feed, None, 1)
    assert (list(batch.events), batch.newest_sequence) == ([], 0)


async def test_a_watch_resumes_where_it_broke(bench: CaBench) -> None:
    for name in ("alice", "bob", "carol"):
        await bench.enroll(name, suite=WEAK)
    (batch,) = await take(bench.feed, 1, 1)
    assert [event.username for event in batch.events] == ["bob", "carol"]
    assert batch.newest_sequence == 3
    (nothing_new,) = await take(bench.feed, 3, 1)
    assert (list(nothing_new.events), nothing_new.newest_sequence) == ([], 3)
    (only_to_come,) = await take(bench.feed, None, 1)
    assert (list(only_to_come.events), only_to_come.newest_sequence) == ([], 3)


async def test_a_number_never_given_out_is_refused(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    with pytest.raises(ServiceError) as refusal:
        await take(bench.feed, 2, 1)
    assert (refusal.value.reason, refusal.value.metadata) == ("SEQUENCE_AHEAD", {"newest_sequence": "1"})


async def test_a_change_in_this_process_wakes_the_watch(bench: CaBench) -> None:
    feed = bench.feed
    feed._poll_seconds = feed._heartbeat_seconds = 3600
    watching = feed.watch(0)
    async with asyncio.timeout(10):
        assert not (await anext(watching)).events
        waiting = asyncio.ensure_future(anext(watching))
        await bench.enroll("alice", suite=WEAK)
        (event,) = (await waiting).events
    assert event.sequence == 1


async def test_a_change_by_another_process_is_found_by_polling(bench: CaBench) -> None:
    feed = EventFeed(bench.store, poll_seconds=0.01, heartbeat_seconds=3600)
    watching = feed.watch(0)
    async with asyncio.timeout(10):
        assert not (await anext(watching)).events
        waiting = asyncio.ensure_future(anext(watching))
        await bench.enroll("alice", suite=WEAK)  # announces to its own feed, not to this one
        assert [event.sequence for event in (await waiting).events] == [1]


async def test_a_quiet_watch_shows_that_it_lives(bench: CaBench) -> None:
    batches = await take(EventFeed(bench.store, poll_seconds=0.01, heartbeat_seconds=0.02), 0, 3)
    assert [list(batch.events) for batch in batches] == [[], [], []]


class ManyEvents:
    """Counts how a feed asks for events."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    async def list_events(self, after_sequence: int, limit: int) -> list[Event]:
        return self.events[after_sequence : after_sequence + limit]

    async def newest_sequence(self) -> int:
        return len(self.events)


async def test_a_backlog_comes_in_bounded_batches(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    (one,) = await bench.store.list_events(0, 1)
    backlog = [one.__class__(**vars(one) | {"sequence": number}) for number in range(1, 601)]
    batches = await take(EventFeed(ManyEvents(backlog)), 0, 3)  # type: ignore[arg-type]
    assert [len(batch.events) for batch in batches] == [BATCH, BATCH, 600 - 2 * BATCH]
    assert {batch.newest_sequence for batch in batches} == {600}


async def test_watchers_see_every_change_once_and_in_order(bench: CaBench) -> None:
    async def watch(count: int) -> list[int]:
        seen: list[int] = []
        async with aclosing(bench.feed.watch(0)) as watching:  # type: ignore[type-var]
            async for batch in watching:
                seen += [event.sequence for event in batch.events]
                if len(seen) >= count:
                    break
        return seen

    async with asyncio.timeout(20):
        *seen, _ = await asyncio.gather(
            *(watch(8) for _ in range(3)),
            asyncio.gather(*(bench.enroll(f"user{number}", suite=WEAK) for number in range(8))),
        )
    assert seen == [list(range(1, 9))] * 3
