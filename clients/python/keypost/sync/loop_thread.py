"""An event loop in a thread of its own, and the way into it from other threads."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401  # what it does at exit must be registered before what is below
import os
import threading
import warnings
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from keypost.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 15.0
"""Seconds that ending waits for the thread: longer than a client takes to close."""
PATIENCE_WITH_ITERATORS = 2.0
"""Seconds that whoever drops an iterator waits for it to close: longer than a stream takes to end."""

_running: set[LoopThread] = set()


async def _nothing() -> None:
    pass


class LoopThread:
    """Runs coroutines for other threads until it is ended; then ``last_act``, whatever else still ran.

    The thread is a daemon: an interpreter that exits ends it first, in order. That is before it waits for threads that
    are no daemons, because afterwards no thread pool takes anything: ``last_act`` may let calls of theirs finish.
    """

    def __init__(self) -> None:
        self.last_act: Callable[[], Coroutine[Any, Any, None]] = _nothing
        self._pid = os.getpid()
        self._open = True
        # Re-entrant: the garbage collector may end an abandoned client in the middle of anything.
        self._entrance = threading.RLock()
        self._end = asyncio.Event()
        self._outcome: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="keypost-sync", daemon=True)
        _running.add(self)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it runs coroutines, in this process."""
        return self._open and self._pid == os.getpid()

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine in the thread, with the context variables of the caller, and return what it returns.

        If the caller is interrupted meanwhile (Ctrl-C, a signal handler that raises), the coroutine is cancelled, and
        has ended when the interruption goes on its way; also where that is as the coroutine begins.

        Raises:
            InvalidArgumentError: the thread is ended, or of another process, or it is the caller.
        """
        self._check_caller()
        call = _Call(lambda: function(*args, **kwargs))
        try:
            self._begin(call)
            return call.answer.result()
        except BaseException:
            if not call.answer.done():
                self._cancel(call)
            raise
        finally:
            del call  # an error knows this frame: it shall not know the error

    def iterate(self, items: AsyncGenerator[T]) -> Generator[T]:
        """Yield what an async generator yields; it is closed when this one is."""
        try:
            while True:
                try:
                    item = self.run(anext, items)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            # Where nobody may wait for it (a callback, the garbage collector in the thread), the loop closes it itself.
            with suppress(InvalidArgumentError):
                self._let_close(items)

    def _begin(self, call: _Call[Any]) -> None:
        with self._entrance:
            if not self._open:
                raise InvalidArgumentError("this client is closed: open another", field="client")
            self._loop.call_soon_threadsafe(call.begin)

    def _let_close(self, items: AsyncGenerator[Any]) -> None:
        """Have an async generator closed, and wait for it, but not for ever.

        Whoever drops an iterator may not know that he does, nor that he holds a lock which a callback wants.
        """
        self._check_caller()
        closing = _Call(items.aclose)
        self._begin(closing)
        try:
            closing.answer.result(PATIENCE_WITH_ITERATORS)
        except TimeoutError:
            warnings.warn(
                "an iterator that was dropped still closes: a callback waits for this thread, or blocks",
                ResourceWarning,
                stacklevel=3,
            )

    def end(self) -> None:
        """Let the thread end, without waiting for it; again is no error, nor is it one in a forked process."""
        if self.is_open:
            with self._entrance:
                self._open = False
                self._loop.call_soon_threadsafe(self._end.set)

    def close(self) -> None:
        """Let the thread end, and wait for it, but not for ever; in a forked process there is nothing to close.

        Raises:
            InvalidArgumentError: the caller is this thread.
            Exception: the last act failed.
        """
        if self._pid != os.getpid():
            return
        self._check_caller()
        self.end()
        try:
            self._outcome.result(PATIENCE)
        except TimeoutError:
            warnings.warn("a client that was closed still runs: a callback blocks it", ResourceWarning, stacklevel=3)
        else:
            self._thread.join()

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                try:
                    runner.run(self._end.wait())
                finally:
                    self.end()
                    runner.run(self.last_act())
        except BaseException as error:  # noqa: BLE001  # whoever joins must see it, whatever it is
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(None)
        finally:
            _running.discard(self)

    def _check_caller(self) -> None:
        if self._pid != os.getpid():
            raise InvalidArgumentError(
                "this client was opened before the process forked: open one in each process", field="client"
            )
        if threading.current_thread() is self._thread:
            raise InvalidArgumentError(
                "a callback of a client cannot wait for that same client: let another thread do it", field="client"
            )

    def _cancel(self, call: _Call[Any]) -> None:
        if call.answer.cancel():  # it has not begun, and will not
            return
        with suppress(RuntimeError):  # the loop has ended meanwhile, and all calls with it
            self._loop.call_soon_threadsafe(call.cancel)
        wait([call.answer])


class _Call(Generic[T]):
    """A coroutine for the loop, and its answer for another thread.

    Not ``asyncio.run_coroutine_threadsafe``: there a call that is cancelled counts as ended before it has.
    """

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.answer: Future[T] = Future()
        self._function = function

    def begin(self) -> None:
        if not self.answer.set_running_or_notify_cancel():
            return
        self._task = asyncio.create_task(self._await())
        self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        self._task.cancel()

    async def _await(self) -> T:
        return await self._function()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.answer.set_exception(InvalidArgumentError("this client was closed meanwhile", field="client"))
        elif (error := task.exception()) is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(task.result())


def _end_all() -> None:
    threads = list(_running)
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.close()


# As early as the thread pools end at exit: afterwards nothing can be written any more.
getattr(threading, "_register_atexit", atexit.register)(_end_all)
