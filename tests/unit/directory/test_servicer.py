"""The re-served watch: heartbeats, slow watchers, and when nothing can be promised."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.keys.v1.key_info_pb2 import KeyEvent
from keypost_services.directory.key_events.hub import EventHub
from keypost_services.directory.key_events.standing import Standing
from keypost_services.directory.servicer import KeyEventServicer
from keypost_services.runtime.errors import ServiceError
from support.clock import ManualClock
from support.directory import new_metrics


class Bench:
    def __init__(self, capacity: int = 3, heartbeat_seconds: float = 30, most_watches: int = 10) -> None:
        self.clock = ManualClock()
        self.hub = EventHub(capacity)
        self.hub.begin(0)
        self.standing = Standing(self.clock, 30_000)
        self.standing.covers(0)
        self.standing.alive()
        self.metrics = new_metrics()
        self.servicer = KeyEventServicer(
            self.hub, self.standing, self.metrics, heartbeat_seconds=heartbeat_seconds, most_watches=most_watches
        )

    def watch(self, after: int | None = None) -> Any:
        request = pb.WatchKeyEventsRequest(after_sequence=after)
        context: Any = None
        return aclosing(self.servicer.WatchKeyEvents(request, context))

    def publish(self, first: int, last: int) -> None:
        self.hub.publish([KeyEvent(sequence=number, username="alice") for number in range(first, last + 1)])

    @property
    def watchers(self) -> Any:
        return self.metrics.watchers._value.get()


async def refusal(call: Any) -> str:
    with pytest.raises(ServiceError) as refused:
        async with asyncio.timeout(10):
            await call
    return refused.value.reason


async def test_without_events_there_are_heartbeats() -> None:
    bench = Bench(heartbeat_seconds=0.01)
    async with asyncio.timeout(10), bench.watch() as watch:
        for _ in range(3):
            assert await anext(watch) == pb.WatchKeyEventsResponse(newest_sequence=0)
        assert bench.watchers == 1
    assert bench.watchers == 0


async def test_a_watcher_that_is_too_slow_is_told_so_and_costs_nothing() -> None:
    bench = Bench(capacity=3)
    async with bench.watch() as watch:
        await anext(watch)
        bench.publish(1, 10)
        assert await refusal(anext(watch)) == "EVENTS_FORGOTTEN"
    assert bench.watchers == 0


async def test_a_watcher_that_keeps_up_misses_nothing() -> None:
    bench = Bench(capacity=3)
    seen: list[int] = []
    async with bench.watch() as watch:
        await anext(watch)
        for first in (1, 4, 7):
            bench.publish(first, first + 2)
            seen += [event.sequence for event in (await anext(watch)).events]
    assert seen == list(range(1, 10))


async def test_a_beginning_anew_is_said_before_anything_else() -> None:
    bench = Bench()
    async with bench.watch() as watch:
        await anext(watch)
        bench.standing.lost()
        bench.hub.begin(0)
        assert await refusal(anext(watch)) == "EVENTS_FORGOTTEN"


async def test_a_beginning_anew_while_a_watch_waits_for_its_sequence_is_not_missed() -> None:
    bench = Bench()
    async with bench.watch(after=1) as watch:
        first = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        bench.hub.begin(1)
        assert await refusal(first) == "EVENTS_FORGOTTEN"


async def test_a_watch_that_nobody_can_vouch_for_any_longer_ends() -> None:
    bench = Bench(heartbeat_seconds=0.01)
    async with bench.watch() as watch:
        await anext(watch)
        bench.clock.advance(30_001)
        assert await refusal(anext(watch)) == "CA_UNAVAILABLE"


async def test_watches_are_bounded() -> None:
    bench = Bench(most_watches=1)
    async with bench.watch() as first, bench.watch() as second:
        await anext(first)
        assert await refusal(anext(second)) == "RATE_LIMITED"
    async with bench.watch() as third:
        await anext(third)
