"""What is asked at the same time is asked together; each gets its own answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost_services.runtime.gathering import MOST_BATCHES, Gathering

if TYPE_CHECKING:
    from collections.abc import Sequence


class Source:
    """Answers twice the number, when the test says so."""

    def __init__(self, *, most: int = 4, late_seconds: float = 60) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.gathering: Gathering[int, int] = Gathering(
            self._ask, most=most, away=(ConnectionError,), late_seconds=late_seconds
        )

    async def _ask(self, numbers: Sequence[int]) -> Sequence[int]:
        self.asked.append(list(numbers))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [2 * number for number in numbers]

    def ask(self, *numbers: int) -> list[asyncio.Task[int]]:
        return [asyncio.ensure_future(self.gathering.ask(number)) for number in numbers]


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_what_comes_together_is_asked_together_and_answered_in_its_order() -> None:
    source = Source()
    assert await asyncio.gather(*source.ask(1, 2, 3)) == [2, 4, 6]
    assert source.asked == [[1, 2, 3]]


async def test_what_comes_meanwhile_goes_together_in_the_next() -> None:
    source = Source()
    source.gate.clear()
    tasks = source.ask(1)
    await turn()
    tasks += source.ask(2, 3)
    await turn()
    assert source.asked == [[1]]
    source.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]
    assert source.asked == [[1], [2, 3]]


async def test_no_more_than_so_many_are_asked_together() -> None:
    source = Source(most=2)
    await asyncio.gather(*source.ask(1, 2, 3))
    assert source.asked == [[1, 2], [3]]


async def test_a_failure_is_everybodys_who_asked_then_and_nobodys_later() -> None:
    source = Source()
    source.error = ValueError("away")
    failed = await asyncio.gather(*source.ask(1, 2), return_exceptions=True)
    assert [type(answer) for answer in failed] == [ValueError, ValueError]
    source.error = None
    assert await asyncio.gather(*source.ask(3)) == [6]


async def test_whoever_waits_for_what_is_away_is_told_with_the_first() -> None:
    """Each batch in turn would find it out after its own time-out: the last one long after its caller has given up."""
    source = Source()
    source.gate.clear()
    source.error = ConnectionError("away")
    tasks = source.ask(*range(30))
    await turn()
    source.gate.set()
    failed = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(answer) for answer in failed} == {ConnectionError}
    assert source.asked == [[0, 1, 2, 3]]
    source.error = None
    assert await asyncio.gather(*source.ask(3)) == [6]


async def test_what_is_wrong_with_one_batch_is_nothing_to_those_that_wait() -> None:
    async def ask(numbers: Sequence[int]) -> Sequence[int]:
        if 1 in numbers:
            raise ValueError("of the first")
        return numbers

    gathering: Gathering[int, int] = Gathering(ask, most=1, away=(ConnectionError,))
    answers = await asyncio.gather(gathering.ask(1), gathering.ask(2), return_exceptions=True)
    assert [type(answers[0]), answers[1]] == [ValueError, 2]


async def test_late_answers_hold_nobody_up_and_no_more_than_so_many_are_waited_for() -> None:
    source = Source(late_seconds=0)
    source.gate.clear()
    tasks = source.ask(*range(4 * MOST_BATCHES + 1))
    async with asyncio.timeout(10):
        while len(source.asked) < MOST_BATCHES:
            await turn()
        await turn(100)
    assert source.asked == [list(range(start, start + 4)) for start in range(0, 4 * MOST_BATCHES, 4)]
    source.gate.set()
    assert await asyncio.gather(*tasks) == [2 * number for number in range(4 * MOST_BATCHES + 1)]


async def test_when_all_is_well_again_what_comes_meanwhile_goes_together_again() -> None:
    source = Source(late_seconds=0)
    source.gate.clear()
    tasks = source.ask(1)
    async with asyncio.timeout(10):
        while len(source.asked) < 2:
            tasks += source.ask(2)
            await turn()
    source.gate.set()
    await asyncio.gather(*tasks)
    source.gathering._late_seconds = 60
    source.asked.clear()
    source.gate.clear()
    tasks = source.ask(1)
    await turn()
    tasks += source.ask(2, 3)
    await turn()
    source.gate.set()
    await asyncio.gather(*tasks)
    assert source.asked == [[1], [2, 3]]


async def test_who_gives_up_takes_nobody_along() -> None:
    source = Source()
    source.gate.clear()
    first, second = source.ask(1, 2)
    await turn()
    later = source.ask(3, 4)
    await turn()
    first.cancel()
    later[0].cancel()
    await turn()
    source.gate.set()
    assert (await second, await later[1]) == (4, 8)
    # What nobody waits for any more is not asked.
    assert source.asked == [[1, 2], [4]]


async def test_when_it_is_ended_nobody_waits_for_ever() -> None:
    source = Source()
    source.gate.clear()
    (waiting,) = source.ask(1)
    await turn()
    (task,) = source.gathering._under_way
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
