"""What may break a watch, and that nothing ends it; what is done about events is tried with the services' listeners."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from keypost.keys.v1.key_info_pb2 import KeyEvent
from keypost_services.runtime.key_event_watch import EventBatch, KeyEventWatch
from support.directory import Ears, silent_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence


class Source:
    """Streams what the test puts in: batches, or what is raised instead."""

    def __init__(self) -> None:
        self.watches: asyncio.Queue[int | None] = asyncio.Queue()
        self.stream: asyncio.Queue[EventBatch | BaseException] = asyncio.Queue()

    async def watch(self, after_sequence: int | None) -> AsyncGenerator[EventBatch]:
        self.watches.put_nowait(after_sequence)
        while True:
            item = await self.stream.get()
            if isinstance(item, BaseException):
                raise item
            yield item


class Listener:
    """Remembers what was told, and fails as often as the test says."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.failures: dict[str, int] = {}

    def _tell(self, name: str, *facts: object) -> None:
        self.told.append((name, *facts))
        if self.failures.get(name, 0):
            self.failures[name] -= 1
            raise RuntimeError("a bug")

    async def resume_after(self) -> int | None:
        self._tell("resume_after")
        return 4

    def begin_after(self, sequence: int, *, anew: bool) -> None:
        self._tell("begin_after", sequence, anew)

    async def act(self, events: Sequence[KeyEvent]) -> None:
        self._tell("act", [event.sequence for event in events])

    async def reached(self, sequence: int, newest_sequence: int) -> None:
        self._tell("reached", sequence, newest_sequence)

    async def lose_all(self) -> None:
        self._tell("lose_all")

    def broke(self, why: str) -> None:
        self._tell("broke", why)


class Bench:
    def __init__(self) -> None:
        self.source, self.listener, self.ears = Source(), Listener(), Ears()
        self.watch = KeyEventWatch(
            self.source, self.listener, silent_log(), on_change=self.ears, jitter=lambda: 0.0, silence_seconds=5
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch.run())
        try:
            async with asyncio.timeout(10):
                yield
        finally:
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def batch(newest: int, *sequences: int) -> EventBatch:
    return EventBatch(tuple(KeyEvent(sequence=sequence) for sequence in sequences), newest)


async def test_it_resumes_and_says_what_was_reached() -> None:
    bench = Bench()
    bench.source.stream.put_nowait(batch(6, 5, 6))
    async with bench.running():
        assert await bench.source.watches.get() == 4
        await bench.watch.wait_until_standing()
    assert bench.listener.told == [
        ("resume_after",),
        ("begin_after", 4, False),
        ("act", [5, 6]),
        ("reached", 6, 6),
    ]
    assert bench.ears.heard == [None]


@pytest.mark.parametrize("name", ["begin_after", "act", "reached"])
async def test_a_listener_that_fails_makes_it_begin_anew_and_degrades_the_health(name: str) -> None:
    bench = Bench()
    bench.listener.failures = {name: 1}
    bench.source.stream.put_nowait(batch(5, 5))
    async with bench.running():
        assert await bench.source.watches.get() == 4
        assert await bench.source.watches.get() is None
        assert bench.ears.heard[-1] == "the watch of key events broke: fault"
        bench.source.stream.put_nowait(batch(5))
        await bench.watch.wait_until_standing()
    assert ("lose_all",) in bench.listener.told
    assert bench.listener.told[-2:] == [("begin_after", 5, True), ("reached", 5, 5)]
    assert bench.ears.heard[-1] is None


async def test_a_position_that_cannot_be_read_is_one_that_nobody_knows() -> None:
    bench = Bench()
    bench.listener.failures = {"resume_after": 1}
    async with bench.running():
        assert await bench.source.watches.get() is None
    assert bench.listener.told[:2] == [("resume_after",), ("lose_all",)]


async def test_what_could_not_be_dropped_is_dropped_before_the_next_watch() -> None:
    bench = Bench()
    bench.listener.failures = {"lose_all": 2}
    async with bench.running():
        await bench.source.watches.get()
        bench.source.stream.put_nowait(RuntimeError("a bug"))
        assert await bench.source.watches.get() is None
    # Once at once, once in vain before the next watch and after its failure, and then for good.
    assert bench.listener.told.count(("lose_all",)) == 3


async def test_a_call_that_somebody_else_cancels_does_not_end_it() -> None:
    bench = Bench()
    async with bench.running():
        await bench.source.watches.get()
        bench.source.stream.put_nowait(batch(5, 5))
        await bench.watch.wait_until_standing()
        bench.source.stream.put_nowait(asyncio.CancelledError())
        assert await bench.source.watches.get() == 5
    assert ("broke", "cancelled") in bench.listener.told


async def test_a_cancellation_that_its_listener_loses_ends_it_at_the_next_batch() -> None:
    bench = Bench()
    acting = asyncio.Event()

    async def deaf(sequence: int, newest_sequence: int) -> None:  # noqa: ARG001
        acting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    bench.listener.reached = deaf  # type: ignore[method-assign]
    bench.source.stream.put_nowait(batch(5, 5))
    task = asyncio.create_task(bench.watch.run())
    async with asyncio.timeout(3):  # less than the silence that would end the watch
        await acting.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
