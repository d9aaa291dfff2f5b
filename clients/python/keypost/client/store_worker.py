"""The key store off the event loop: one thread, so that its calls keep their order."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from keypost.keystore.errors import KeyStoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from keypost.keystore.port import KeyStore

P = ParamSpec("P")
T = TypeVar("T")


class StoreWorker:
    """Runs functions on the key store in one thread of its own, in order, with the caller's context.

    Cancelling the caller does not stop a function that runs: a transaction ends whole or not at all.

    Args:
        store: An open key store; the worker closes it.
    """

    def __init__(self, store: KeyStore, executor: ThreadPoolExecutor) -> None:
        self._store: KeyStore | None = store
        self._executor = executor

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


def _close_opened(opening: Future[tuple[KeyStore, T]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        store, _ = opening.result()
        store.close()
