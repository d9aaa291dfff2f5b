"""The watch of the CA's key events, whose stream the test plays batch by batch."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from keypost.clock import MINUTE
from keypost.keys.v1.key_info_pb2 import KeyEvent
from keypost_services.directory.key_events.actions import Actions
from keypost_services.directory.key_events.hub import EventHub
from keypost_services.directory.key_events.standing import Standing
from keypost_services.directory.metrics import Metrics
from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.key_event_watch import CannotResumeError, EventBatch, KeyEventWatch
from support.clock import START, ManualClock
from support.directory import Ears, silent_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping


class Source:
    """Streams what the test puts in: batches, or the exception that ends the stream."""

    def __init__(self) -> None:
        self.watches: asyncio.Queue[int | None] = asyncio.Queue()
        self.stream: asyncio.Queue[EventBatch | Exception | None] = asyncio.Queue()

    async def watch(self, after_sequence: int | None) -> AsyncGenerator[EventBatch]:
        self.watches.put_nowait(after_sequence)
        while (item := await self.stream.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def send(self, newest: int, *events: tuple[int, str, int]) -> None:
        messages = tuple(KeyEvent(sequence=number, username=name, revision=rev) for number, name, rev in events)
        self.stream.put_nowait(EventBatch(messages, newest))


class LookUp:
    """Remembers what was dropped, and in which order."""

    def __init__(self, done: list[Any]) -> None:
        self.done = done

    async def drop_many(self, floors: Mapping[str, int]) -> None:
        self.done.append(("drop", dict(floors)))

    async def drop_all(self) -> None:
        self.done.append("drop all")


class Position:
    def __init__(self, done: list[Any], sequence: int | None) -> None:
        self.done = done
        self.sequence = sequence

    async def read(self) -> int | None:
        return self.sequence

    async def advance(self, sequence: int) -> None:
        self.done.append(("position", sequence))


class Callers:
    def __init__(self, done: list[Any]) -> None:
        self.done = done

    def drop_user(self, username: str) -> None:
        self.done.append(("callers", username))

    def drop_all(self) -> None:
        self.done.append("callers")


class Hub(EventHub):
    """A hub that says when it was told."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__(100)
        self.done = done
        self.told = asyncio.Event()

    def publish(self, events: Any) -> None:
        self.done.append(("publish", [event.sequence for event in events]))
        super().publish(events)
        self.told.set()


class Bench:
    def __init__(self, position: int | None = None, silence_seconds: float = 5) -> None:
        self.clock = ManualClock()
        self.done: list[Any] = []
        self.source = Source()
        self.ears = Ears()
        self.hub = Hub(self.done)
        self.standing = Standing(self.clock, 30_000)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        callers = Callers(self.done)
        look_up: Any = LookUp(self.done)
        self.actions = Actions(
            look_up,
            Position(self.done, position),
            callers,
            self.hub,
            standing=self.standing,
            clock=self.clock,
            metrics=self.metrics,
        )
        self.watcher = KeyEventWatch(
            self.source,
            self.actions,
            silent_log(),
            on_change=self.ears,
            jitter=lambda: 0.0,
            silence_seconds=silence_seconds,
        )

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watcher.run())
        try:
            async with asyncio.timeout(10):
                yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def numbers(self, *names: str) -> list[float | None]:
        return [self.registry.get_sample_value(f"keypost_directory_{name}") for name in names]

    def breaks(self, why: str) -> Any:
        return self.metrics.watch_breaks.labels(why=why)._value.get()


async def test_without_a_position_it_begins_with_what_is_to_come() -> None:
    bench = Bench()
    async with bench.watching():
        assert await bench.source.watches.get() is None
        bench.source.send(7)
        await bench.watcher.wait_until_standing()
    assert bench.hub.newest == 7
    assert bench.standing.oldest() == START
    assert bench.ears.heard == [None]


async def test_every_event_drops_the_user_before_anybody_hears_of_it() -> None:
    bench = Bench()
    async with bench.watching():
        bench.source.send(7)
        bench.source.send(9, (8, "alice", 3), (9, "alice", 4))
        await bench.hub.told.wait()
        await bench.watcher.wait_until_standing()
    assert bench.done[:5] == [
        "callers",  # nobody knows what happened before the watch stood
        ("position", 7),
        ("drop", {"alice": 4}),
        ("callers", "alice"),
        ("publish", [8, 9]),
    ]
    assert bench.metrics.events._value.get() == 2


async def test_its_numbers_say_how_far_it_is_and_how_late() -> None:
    bench = Bench(position=7)
    late = KeyEvent(sequence=8, username="alice", revision=2, create_time=START - 2_500)
    later = KeyEvent(sequence=9, username="bob", revision=2, create_time=START - 500)
    async with bench.watching():
        await bench.source.watches.get()
        bench.source.stream.put_nowait(EventBatch((late, later), 12))
        bench.source.stream.put_nowait(None)
        assert await bench.source.watches.get() == 9
        assert bench.numbers("newest_sequence", "key_events_behind") == [9, 3]
        assert bench.numbers("key_event_seconds_count", "key_event_seconds_sum") == [2, 3.0]
        bench.source.send(12, *((number, "carol", number) for number in (10, 11, 12)))
        bench.source.stream.put_nowait(None)
        assert await bench.source.watches.get() == 12
    assert bench.numbers("newest_sequence", "key_events_behind") == [12, 0]
    assert bench.numbers("key_events_total", "key_event_seconds_count") == [5, 5]


async def test_it_resumes_where_redis_was_last_put_right_and_stands_once_it_has_caught_up() -> None:
    bench = Bench(position=5)
    async with bench.watching():
        assert await bench.source.watches.get() == 5
        bench.source.send(8, (6, "alice", 2), (7, "bob", 2))
        await bench.hub.told.wait()
        assert not bench.standing.is_standing()
        bench.source.send(8, (8, "carol", 2))
        await bench.watcher.wait_until_standing()
    assert bench.standing.oldest() == 0
    assert [event.sequence for event in bench.hub.after(5, bench.hub.generation)] == [6, 7, 8]
    assert bench.done[-1] == ("position", 8)


async def test_where_the_watch_broke_it_is_resumed() -> None:
    bench = Bench()
    async with bench.watching():
        assert await bench.source.watches.get() is None
        bench.source.send(7)
        bench.source.send(8, (8, "alice", 2))
        bench.source.stream.put_nowait(SourceAwayError("gone"))
        assert await bench.source.watches.get() == 8
        generation = bench.hub.generation
        # What comes twice is not done twice.
        bench.source.send(9, (8, "alice", 2), (9, "bob", 2))
        await bench.watcher.wait_until_standing()
    assert bench.hub.generation == generation
    assert [step for step in bench.done if step[0] == "publish"] == [("publish", [8]), ("publish", [9])]
    assert "drop all" not in bench.done
    assert bench.breaks("away") == 1
    assert bench.ears.heard == [None, "the watch of key events broke: gone", None]


async def test_a_watch_that_the_ca_ends_is_opened_again() -> None:
    bench = Bench()
    async with bench.watching():
        await bench.source.watches.get()
        bench.source.send(7)
        bench.source.stream.put_nowait(None)
        assert await bench.source.watches.get() == 7
    assert bench.breaks("ended") == 1


async def test_a_silent_watch_is_broken() -> None:
    bench = Bench(silence_seconds=0.01)
    async with bench.watching():
        await bench.source.watches.get()
        bench.source.send(7)
        assert await bench.source.watches.get() == 7
    assert bench.breaks("silent") == 1


async def test_a_gap_drops_everything_and_begins_anew() -> None:
    bench = Bench()
    async with bench.watching():
        await bench.source.watches.get()
        bench.source.send(7)
        await bench.watcher.wait_until_standing()
        generation = bench.hub.generation
        bench.source.send(9, (9, "alice", 2))
        assert await bench.source.watches.get() is None
        assert bench.done[-2:] == ["callers", "drop all"]
        assert not bench.standing.is_standing()
        # Those who watch are told at once, not when the watch stands again.
        assert bench.hub.generation == generation + 1
        bench.clock.advance(MINUTE)
        bench.source.send(9)
        await bench.watcher.wait_until_standing()
    assert ("drop", {"alice": 2}) not in bench.done
    assert bench.standing.oldest() == START + MINUTE
    assert bench.breaks("gap") == 1


async def test_a_gap_within_a_batch_is_seen_too() -> None:
    bench = Bench()
    async with bench.watching():
        await bench.source.watches.get()
        bench.source.send(7)
        bench.source.send(10, (8, "alice", 2), (10, "bob", 2))
        assert await bench.source.watches.get() is None
    assert "drop all" in bench.done


async def test_a_ca_restored_from_a_backup_makes_it_begin_anew() -> None:
    bench = Bench(position=50)
    async with bench.watching():
        assert await bench.source.watches.get() == 50
        bench.source.stream.put_nowait(CannotResumeError())
        assert await bench.source.watches.get() is None
        bench.source.send(7)
        await bench.watcher.wait_until_standing()
    assert bench.done[:2] == ["callers", "drop all"]
    assert bench.hub.newest == 7


async def test_a_fault_does_not_end_the_watch_for_good() -> None:
    bench = Bench()
    async with bench.watching():
        await bench.source.watches.get()
        bench.source.stream.put_nowait(RuntimeError("a bug"))
        assert await bench.source.watches.get() is None
    assert bench.breaks("fault") == 1
    assert "drop all" in bench.done


async def test_a_first_batch_with_events_says_where_they_begin() -> None:
    bench = Bench()
    async with bench.watching():
        bench.source.send(9, (8, "alice", 2), (9, "bob", 2))
        await bench.watcher.wait_until_standing()
    assert [event.sequence for event in bench.hub.after(7, bench.hub.generation)] == [8, 9]
