"""Asks for many at once what is dear to ask for one by one.

A question that comes while others are under way waits for them, and goes with all that have come meanwhile. So nobody
waits for a timer, one alone is asked at once, and the busier it gets the less each costs. Whoever is gathered waits for
whoever is asked: questions to two of whom one may be away are not gathered together.

Nobody waits long for others: where an answer is late, for one of many questions may take its time, those who wait are
asked beside it. And where whoever is asked is found to be away, all who wait know it: they would only find it out one
batch after the other, each after its own time-out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

Q = TypeVar("Q")
A = TypeVar("A")
MOST = 64
MOST_BATCHES = 4
"""So many batches are under way, if those before are late."""
LATE_SECONDS = 0.2
"""An answer is late after so long: many times what it takes when all is well, for one batch at a time costs least."""


class Gathering(Generic[Q, A]):
    """Gathers questions.

    Args:
        ask: Answers many questions: as many answers, in their order. What it raises is raised for each of them.
        most: How many are asked together.
        away: What it raises if nobody would be answered: raised for all who wait as well.
        late_seconds: How long those who wait do so for answers that do not come.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        *,
        most: int = MOST,
        away: tuple[type[Exception], ...] = (),
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        self._ask = ask
        self._most = most
        self._away = away
        self._late_seconds = late_seconds
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """Return the answer to a question.

        Raises:
            Exception: whatever ``ask`` raised for those that were asked together.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        self._begin()
        return await future

    def _begin(self) -> None:
        """Begin a batch if somebody waits, and nothing is under way but what is late."""
        if self._waiting and self._under_way == self._late and len(self._late) < MOST_BATCHES:
            # It begins when this task waits: others that are about to ask are gathered too. Nothing of the first one,
            # such as its trace, is said of all.
            task = asyncio.get_running_loop().create_task(self._run(), context=Context())
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # for the type checker
        overdue = asyncio.get_running_loop().call_later(self._late_seconds, self._is_late, task)
        try:
            await self._answer(self._next())
        finally:
            overdue.cancel()

    def _is_late(self, task: asyncio.Task[None]) -> None:
        self._late.add(task)
        self._begin()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._late.discard(task)
        if not task.cancelled():
            self._begin()

    async def _answer(self, gathered: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        if not gathered:
            return
        futures = [future for _, future in gathered]
        try:
            answers = await self._ask([question for question, _ in gathered])
        except Exception as error:  # noqa: BLE001  # those who asked have it
            _fail(futures, error)
            if isinstance(error, self._away):
                _fail((future for _, future in self._waiting), error)
                self._waiting.clear()
            return
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        for future, answer in zip(futures, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        gathered: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(gathered) < self._most:
            question, future = self._waiting.popleft()
            # Who has given up meanwhile is not asked for.
            if not future.done():
                gathered.append((question, future))
        return gathered


def _fail(futures: Iterable[asyncio.Future[A]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
