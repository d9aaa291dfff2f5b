from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost_services.directory.look_up.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Mapping


class Oracle:
    """Answers with how often it was asked, once it may."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, questions: Mapping[str, None]) -> dict[str, int]:
        self.asked.append(list(questions))
        number = len(self.asked)
        await self.gate.wait()
        if self.error:
            raise self.error
        return dict.fromkeys(questions, number)


async def started(oracle: Oracle) -> None:
    """Return once everybody who was to ask has asked."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert oracle.asked


async def test_many_who_ask_at_once_are_one_question() -> None:
    oracle = Oracle()
    flight: SingleFlight[str, None, int] = SingleFlight(oracle)
    tasks = [asyncio.create_task(flight.ask({"alice": None})) for _ in range(100)]
    await started(oracle)
    oracle.gate.set()
    answers = await asyncio.gather(*tasks)
    assert oracle.asked == [["alice"]]
    assert all(answer == {"alice": 1} for answer, _ in answers)
    assert [len(joined) for _, joined in answers] == [0] + [1] * 99


async def test_a_batch_asks_only_for_what_is_not_under_way() -> None:
    oracle = Oracle()
    flight: SingleFlight[str, None, int] = SingleFlight(oracle)
    first = asyncio.create_task(flight.ask({"alice": None, "bob": None}))
    await started(oracle)
    second = asyncio.create_task(flight.ask({"bob": None, "carol": None}))
    await started(oracle)
    oracle.gate.set()
    assert (await first) == ({"alice": 1, "bob": 1}, set())
    assert (await second) == ({"bob": 1, "carol": 2}, {"bob"})
    assert oracle.asked == [["alice", "bob"], ["carol"]]


async def test_a_caller_who_is_cancelled_takes_nobody_along() -> None:
    oracle = Oracle()
    flight: SingleFlight[str, None, int] = SingleFlight(oracle)
    tasks = [asyncio.create_task(flight.ask({"alice": None})) for _ in range(3)]
    await started(oracle)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.wait(tasks[:2])
    oracle.gate.set()
    assert (await tasks[2])[0] == {"alice": 1}
    assert len(oracle.asked) == 1


async def test_the_next_question_is_a_new_one() -> None:
    oracle = Oracle()
    oracle.gate.set()
    flight: SingleFlight[str, None, int] = SingleFlight(oracle)
    assert (await flight.ask({"alice": None}))[0] == {"alice": 1}
    assert (await flight.ask({"alice": None}))[0] == {"alice": 2}


async def test_a_failure_reaches_all_who_wait_and_nobody_after() -> None:
    oracle = Oracle()
    oracle.error = RuntimeError("no")
    flight: SingleFlight[str, None, int] = SingleFlight(oracle)
    tasks = [asyncio.create_task(flight.ask({"alice": None})) for _ in range(2)]
    await started(oracle)
    oracle.gate.set()
    for task in tasks:
        with pytest.raises(RuntimeError):
            await task
    oracle.error = None
    assert (await flight.ask({"alice": None}))[0] == {"alice": 2}


async def test_closing_ends_what_is_under_way() -> None:
    oracle = Oracle()
    flight: SingleFlight[str, None, int] = SingleFlight(oracle)
    task = asyncio.create_task(flight.ask({"alice": None}))
    await started(oracle)
    await flight.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_ends_what_has_not_even_begun() -> None:
    flight: SingleFlight[str, None, int] = SingleFlight(Oracle())
    task = asyncio.create_task(flight.ask({"alice": None}))
    await asyncio.sleep(0)
    await flight.close()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
