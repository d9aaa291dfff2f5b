"""The key store off the event loop: one thread, so that its calls keep their order."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from keypost.keystore.errors import KeyStoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from keypost.keystore.port import KeyStore

P = ParamSpec("P")
T = TypeVar("T")
MOST_TOGETHER = 64
"""How many functions share one transaction."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A function that waits for its turn in a shared transaction, and who waits for it."""

    function: Callable[[KeyStore], Any]
    context: contextvars.Context
    done: asyncio.Future[Any]

    def attempt(self, store: KeyStore) -> tuple[Any, BaseException | None]:
        """Return what the function returns, or what it raises: then nothing of it is written."""
        try:
            with store.transaction():
                return self.context.run(self.function, store), None
        except Exception as error:  # noqa: BLE001  # it is its caller's; the others go on
            return None, error

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Tell who waits, unless nobody does any more."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


class StoreWorker:
    """Runs functions on the key store in one thread of its own, in order, with the caller's context.

    Cancelling the caller does not stop a function that runs: a transaction ends whole or not at all.

    Args:
        store: An open key store; the worker closes it.
    """

    def __init__(self, store: KeyStore, executor: ThreadPoolExecutor) -> None:
        self._store: KeyStore | None = store
        self._executor = executor
        self._jobs: deque[_Job] = deque()

    async def run(self, function: Callable[Concatenate[KeyStore, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function(store, ...)`` in the thread and return what it returns."""
        store = self._open_store()
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: context.run(function, store, *args, **kwargs))

    async def transact(self, function: Callable[Concatenate[KeyStore, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function(store, ...)`` in the thread in one transaction and return what it returns."""

        def within(store: KeyStore) -> T:
            with store.transaction():
                return function(store, *args, **kwargs)

        return await self.run(within)

    def begin_together(
        self, function: Callable[Concatenate[KeyStore, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Have ``function(store, ...)`` called as by ``transact``, together with what others ask for meanwhile.

        The disk is waited for once for all of them; one that fails does so alone. They are called in the order in which
        they came.
        """
        store, loop = self._open_store(), asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        self._jobs.append(_Job(lambda opened: function(opened, *args, **kwargs), context, done))
        # Not before whatever else happens just now has had its say: it shares the transaction.
        loop.call_soon(self._executor.submit, self._transact_jobs, store, loop)
        return done

    def _transact_jobs(self, store: KeyStore, loop: asyncio.AbstractEventLoop) -> None:
        jobs: list[_Job] = []
        with contextlib.suppress(IndexError):
            while len(jobs) < MOST_TOGETHER:
                jobs.append(self._jobs.popleft())
        if not jobs:
            return
        try:
            with store.transaction():
                outcomes = [job.attempt(store) for job in jobs]
        except Exception as error:  # noqa: BLE001  # nothing was written: each caller is told
            outcomes = [(None, error) for _ in jobs]
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_settle, jobs, outcomes)

    async def close(self) -> None:
        """Let what runs end, then close the store. Closing again is no error."""
        store, self._store = self._store, None
        try:
            if store is not None:
                await asyncio.get_running_loop().run_in_executor(self._executor, store.close)
        finally:
            self._executor.shutdown(wait=False)

    def _open_store(self) -> KeyStore:
        if self._store is None:
            raise KeyStoreUnavailableError("this client is closed: open another")
        return self._store


async def open_worker(open_store: Callable[[], tuple[KeyStore, T]]) -> tuple[StoreWorker, T]:
    """Open a key store in the thread that will work on it.

    Args:
        open_store: Returns the open store and something beside it; blocks.

    Returns:
        The worker, and what was beside the store.

    Raises:
        CancelledError: the caller was cancelled; a store that opens nevertheless is closed at once.
        KeypostError: whatever ``open_store`` raises.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="keypost-store")
    opening = executor.submit(open_store)
    try:
        store, beside = await asyncio.wrap_future(opening)
    except BaseException:
        # A thread cannot be stopped: without this the profile stays open, locked and unlocked, in nobody's hands.
        opening.add_done_callback(_close_opened)
        executor.shutdown(wait=False)
        raise
    return StoreWorker(store, executor), beside


def _settle(jobs: Sequence[_Job], outcomes: Sequence[tuple[Any, BaseException | None]]) -> None:
    for job, (result, error) in zip(jobs, outcomes, strict=True):
        job.settle(result, error)


def _close_opened(opening: Future[tuple[KeyStore, T]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        store, _ = opening.result()
        store.close()
