"""Work that goes on beside the calls for as long as a service runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AsyncExitStack

    from keypost_services.runtime.serving import Runtime

PAUSE_SECONDS = 1.0
END_SECONDS = 2.0
"""After so long work that was cancelled and has not ended is cancelled again: a library may have lost it."""
MOST_CANCELLATIONS = 5
"""After so many it is left behind: a drain must not hang."""


def keep_running(
    stack: AsyncExitStack, runtime: Runtime[Any], part: str, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run ``work`` until the stack is left; work that ends or fails is said in the health, and begins again.

    Args:
        stack: Leaving it ends the work, or leaves behind and logs what does not end.
        runtime: Where the health and the log are.
        part: The name of the part in the health; the work itself says when it is well again.
        work: What never returns, if all is well.
    """
    task = asyncio.create_task(_for_ever(runtime, part, work), name=part)
    stack.push_async_callback(_end, task, runtime, part)


async def _end(task: asyncio.Task[None], runtime: Runtime[Any], part: str) -> None:
    for cancellations in range(1, MOST_CANCELLATIONS + 1):
        task.cancel()
        await asyncio.wait([task], timeout=END_SECONDS)
        if task.done():
            return
        runtime.log.warning("background work does not end", part=part, cancellations=cancellations)
    runtime.log.error("background work is left behind", part=part)


async def _for_ever(runtime: Runtime[Any], part: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        why = "it ended"
        try:
            await work()
        except Exception as error:  # a fault must not end for good what everything else relies upon
            why = type(error).__name__
            runtime.log.exception("background work failed", part=part)
        runtime.health.set_degraded(part, f"it failed and begins again: {why}")
        await asyncio.sleep(PAUSE_SECONDS)
