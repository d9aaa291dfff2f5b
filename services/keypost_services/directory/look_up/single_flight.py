"""One question however many ask at once: those who ask for what is under way wait for its answer."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

K = TypeVar("K")
Q = TypeVar("Q")
A = TypeVar("A")


class SingleFlight(Generic[K, Q, A]):
    """Shares answers by key between all who ask while the question is under way.

    A question runs in a task of its own: a caller who is cancelled takes nobody else along.

    Args:
        fetch: Answers questions by key; it must answer every key that it is asked.
    """

    def __init__(self, fetch: Callable[[Mapping[K, Q]], Awaitable[Mapping[K, A]]]) -> None:
        self._fetch = fetch
        self._under_way: dict[K, asyncio.Future[A]] = {}
        self._tasks: set[asyncio.Task[Mapping[K, A]]] = set()

    async def ask(self, questions: Mapping[K, Q]) -> tuple[dict[K, A], set[K]]:
        """Return the answers, and the keys of those that were under way before (so may be older than this call).

        Raises:
            Exception: whatever ``fetch`` raised.
        """
        joined = {key for key in questions if key in self._under_way}
        new = {key: question for key, question in questions.items() if key not in joined}
        if new:
            self._start(new)
        futures = {key: self._under_way[key] for key in questions}
        await asyncio.wait(futures.values())
        return {key: future.result() for key, future in futures.items()}, joined

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, questions: Mapping[K, Q]) -> None:
        loop = asyncio.get_running_loop()
        futures: dict[K, asyncio.Future[A]] = {key: loop.create_future() for key in questions}
        self._under_way |= futures
        task = loop.create_task(self._run(questions))
        self._tasks.add(task)
        # A callback, because a task that is cancelled before its first step runs no line of its own.
        task.add_done_callback(functools.partial(self._settle, futures))

    async def _run(self, questions: Mapping[K, Q]) -> Mapping[K, A]:
        answers = await self._fetch(questions)
        return {key: answers[key] for key in questions}

    def _settle(self, futures: Mapping[K, asyncio.Future[A]], task: asyncio.Task[Mapping[K, A]]) -> None:
        self._tasks.discard(task)
        for key, future in futures.items():
            del self._under_way[key]
            if task.cancelled():
                future.cancel()
            elif error := task.exception():
                future.set_exception(error)
                # Nobody may be left to ask for it.
                future.exception()
            else:
                future.set_result(task.result()[key])
