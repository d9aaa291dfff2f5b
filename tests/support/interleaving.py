"""Interleavings that a test chooses: what happens meanwhile, at exactly which step of whom.

The steps run in threads of the client's; they wait here until what happens meanwhile has happened on the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keypost.protocol import negotiation
from support.exchange import copied, exchanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FunctionType

    from keypost.client import Client
    from keypost.protocol.key_info import Key

STEPS = {
    int(name.split("_")[1]): function
    for name, function in inspect.getmembers(negotiation, inspect.isfunction)
    if name.startswith("step_")
}
"""The functions of the fourteen steps by number."""
PATIENCE = 30


@dataclass
class Meanwhile:
    """Something that happens once.

    Attributes:
        happened: Whether it has.
    """

    action: Callable[[], Awaitable[None]]
    happened: bool = False

    async def happen(self) -> None:
        """Let it happen, unless it has."""
        if not self.happened:
            self.happened = True
            await self.action()


@contextmanager
def before_step(number: int, action: Callable[[], Awaitable[None]]) -> Iterator[Meanwhile]:
    """Let something happen just before the next time that a client takes a step (2 to 14).

    Args:
        number: The step.
        action: What happens; it runs on the event loop of the test.
    """
    loop, meanwhile = asyncio.get_running_loop(), Meanwhile(action)
    function: FunctionType = STEPS[number]
    step = copied(function)

    def after_it_happened(*args: Any, **kwargs: Any) -> Any:
        asyncio.run_coroutine_threadsafe(meanwhile.happen(), loop).result(PATIENCE)
        return step(*args, **kwargs)

    with exchanged(function, after_it_happened):
        yield meanwhile


@contextmanager
def before_call(target: object, method: str, action: Callable[[], Awaitable[None]]) -> Iterator[Meanwhile]:
    """Let something happen when an object's method is called the next time, before it does anything."""
    meanwhile, call = Meanwhile(action), getattr(target, method)

    async def after_it_happened(*args: Any, **kwargs: Any) -> Any:
        await meanwhile.happen()
        return await call(*args, **kwargs)

    setattr(target, method, after_it_happened)
    try:
        yield meanwhile
    finally:
        setattr(target, method, call)


@dataclass
class RenewalUnderWay:
    """A renewal of which the test says when the CA gets it, and when its answer arrives.

    Attributes:
        client: Who renews.
    """

    client: Client
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _go: asyncio.Event = field(default_factory=asyncio.Event)
    _recorded: asyncio.Event = field(default_factory=asyncio.Event)
    _answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self) -> None:
        """Renew up to the moment in which the CA would be asked to record the new key."""
        renewing = self.client._parts.renewing
        renew = renewing._ca.renew

        async def held(signed: Any) -> Any:
            self._asked.set()
            await self._go.wait()
            key_info = await renew(signed)
            self._recorded.set()
            await self._answer.wait()
            return key_info

        renewing._ca.renew = held  # type: ignore[method-assign,assignment]  # for this one renewal
        self._task = asyncio.create_task(self.client.renew())
        await _first(self._asked.wait(), self._task)
        renewing._ca.renew = renew  # type: ignore[method-assign]

    async def record(self) -> None:
        """Let the CA record the new key; its answer stays on its way."""
        self._go.set()
        await _first(self._recorded.wait(), self._task)

    @property
    def is_recorded(self) -> bool:
        """Whether the CA has recorded the new key."""
        return self._recorded.is_set()

    async def finish(self) -> Key:
        """Let the answer arrive, and return the new key."""
        self._go.set()
        self._answer.set()
        return await self._task


async def _first(event: Awaitable[Any], task: asyncio.Task[Any]) -> None:
    """Wait for an event that a task brings about; a task that fails before fails the test, at once."""
    waiting = asyncio.ensure_future(event)
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        task.result()
        raise AssertionError("the renewal ended before it came so far")
