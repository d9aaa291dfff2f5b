"""Cancellation that redis-py may lose on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


async def heeding_cancellation(operation: Awaitable[T]) -> T:
    """Await an operation of redis-py; a cancellation that arrived meanwhile counts even if the operation swallowed it.

    redis-py sends through ``asyncio.wait_for``, which before Python 3.12 returns normally when it is cancelled in the
    moment in which it is done: a loop around it would never end.

    Raises:
        CancelledError: this task was cancelled.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await operation
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return result
