"""A store of the CA whose calls take turns: which of several changes at once goes on next, the test chooses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from keypost_services.ca.store import Store


class TurnTakingStore:
    """The store behind it; while changes are interleaved, each call waits until it is its turn.

    One change moves at a time, from one call to the next: what happens is decided by the choices alone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._takes_turns = False
        self._turns: list[asyncio.Future[None]] = []
        self._moved = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def in_turn(*args: Any, **kwargs: Any) -> Any:
            if self._takes_turns:
                await self._turn()
            return await method(*args, **kwargs)

        return in_turn

    async def interleave(self, changes: Sequence[Coroutine[Any, Any, Any]], choose: Callable[[int], int]) -> list[Any]:
        """Make changes at once, and return what became of each: its answer, or what it raised.

        Args:
            changes: The changes.
            choose: Returns which of so many goes on next, from 0.
        """
        self._takes_turns = True
        tasks = [asyncio.create_task(change) for change in changes]
        try:
            for task in tasks:
                task.add_done_callback(lambda _: self._moved.set())
            while await self._all_wait(tasks):
                self._turns.pop(choose(len(self._turns))).set_result(None)
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._takes_turns = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _all_wait(self, tasks: Sequence[asyncio.Task[Any]]) -> bool:
        """Return once every change that has not ended waits for its turn; whether there is one."""
        while len(self._turns) < (under_way := sum(not task.done() for task in tasks)):
            self._moved.clear()
            async with asyncio.timeout(20):
                await self._moved.wait()
        return under_way > 0

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._moved.set()
        await turn
