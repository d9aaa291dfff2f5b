"""What is asked at the same time is asked together; each gets its own answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost_services.runtime.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import Sequence


class Source:
    """Answers twice the number, when the test says so."""

    def __init__(self, *, most: int = 4) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.gathering: Gathering[int, int] = Gathering(self._ask, most=most)

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
    assert source.gathering._task is not None
    source.gathering._task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
