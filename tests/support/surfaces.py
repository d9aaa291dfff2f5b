"""Both surfaces of the client for the same tests.

A test awaits ``person.client`` as if it were ``keypost.Client``. Over ``keypost.sync.Client`` each of its calls is made
in a thread, and what the test reaches for inside runs on the client's own loop.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest

import keypost
import keypost.sync
from keypost.client.context import Context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from keypost.client import ReceivedFile
    from keypost.sync.loop_thread import LoopThread

asyncio_only = pytest.mark.parametrize("surface", ["asyncio"], indirect=True)
"""For a test that has no meaning over threads; say why beside it."""


@pytest.fixture(params=["asyncio", "sync"])
def surface(request: pytest.FixtureRequest) -> Any:
    """What has the face of the class ``keypost.Client``."""
    return keypost.Client if request.param == "asyncio" else InThreads


class InThreads:
    """``keypost.sync.Client``, awaitable."""

    def __init__(self, client: keypost.sync.Client) -> None:
        self._client = client

    @classmethod
    async def open(cls, *args: Any, **options: Any) -> InThreads:
        return cls(await asyncio.to_thread(keypost.sync.Client.open, *args, **options))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return _inside(self._client._thread, getattr(self._client._client, name))
        attribute = getattr(self._client, name)
        return _in_thread(attribute) if callable(attribute) else attribute

    def __repr__(self) -> str:
        return repr(self._client)

    async def receive(self, *, follow: bool = True) -> AsyncGenerator[keypost.sync.Received]:
        messages = self._client.receive(follow=follow)
        try:
            while (message := await asyncio.to_thread(next, messages, None)) is not None:
                yield message
        finally:
            await asyncio.to_thread(messages.close)


async def read(file: ReceivedFile | keypost.sync.ReceivedFile) -> bytes:
    """Return the bytes of a file that came over either surface."""
    if isinstance(file, keypost.sync.ReceivedFile):
        return await asyncio.to_thread(lambda: b"".join(file.chunks()))
    return b"".join([chunk async for chunk in file.chunks()])


class _Inside:
    """A part of the client, reached for from another thread: its coroutines run on the client's loop."""

    def __init__(self, thread: LoopThread, part: Any) -> None:
        self.__dict__.update(_thread=thread, _part=part)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        if inspect.iscoroutinefunction(value) or isinstance(self._part, asyncio.Event):
            return _on_loop(self._thread, value)
        return _inside(self._thread, value)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._part, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._part, name)


def _inside(thread: LoopThread, value: Any) -> Any:
    return _Inside(thread, value) if _belongs_to_loop(value) else value


def _belongs_to_loop(value: Any) -> bool:
    if isinstance(value, (Context, asyncio.Event)):
        return True
    kind = type(value)
    return kind.__module__.startswith("keypost.") and any(map(inspect.iscoroutinefunction, vars(kind).values()))


def _on_loop(thread: LoopThread, function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):
        return _in_thread(lambda *args, **kwargs: thread.run(function, *args, **kwargs))

    async def call(*args: Any) -> Any:
        return function(*args)

    return lambda *args: thread.run(call, *args)


def _in_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(function, *args, **kwargs)

    return call
