"""Asks for many at once what is dear to ask for one by one.

A question that comes while others are under way waits for them, and goes with all that have come meanwhile. So nobody
waits for a timer, one alone is asked at once, and the busier it gets the less each costs. Whoever is gathered waits for
whoever is asked: questions to two of whom one may be away are not gathered together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Q = TypeVar("Q")
A = TypeVar("A")
MOST = 64


class Gathering(Generic[Q, A]):
    """Gathers questions.

    Args:
        ask: Answers many questions: as many answers, in their order. What it raises is raised for each of them.
        most: How many are asked together.
    """

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], *, most: int = MOST) -> None:
        self._ask = ask
        self._most = most
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Return the answer to a question.

        Raises:
            Exception: whatever ``ask`` raised for those that were asked together.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if self._task is None or self._task.done():
            # It begins when this task waits: others that are about to ask are gathered too. Nothing of the first one,
            # such as its trace, is said of all.
            self._task = loop.create_task(self._run(), context=Context())
        return await future

    async def _run(self) -> None:
        while gathered := self._next():
            try:
                answers = await self._ask([question for question, _ in gathered])
            except Exception as error:  # noqa: BLE001  # those who asked have it
                for _, future in gathered:
                    if not future.done():
                        future.set_exception(error)
                continue
            except BaseException:
                for _, future in gathered:
                    future.cancel()
                raise
            for (_, future), answer in zip(gathered, answers, strict=True):
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
