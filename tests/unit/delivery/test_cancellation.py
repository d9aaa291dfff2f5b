from __future__ import annotations

import asyncio

import pytest

from keypost_services.delivery.cancellation import heeding_cancellation


async def swallows(started: asyncio.Event) -> str:
    started.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "done"
    raise AssertionError


async def test_a_swallowed_cancellation_counts() -> None:
    started = asyncio.Event()
    task = asyncio.ensure_future(heeding_cancellation(swallows(started)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_results_and_errors_pass() -> None:
    async def fails() -> None:
        raise ValueError("why")

    assert await heeding_cancellation(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(ValueError, match="why"):
        await heeding_cancellation(fails())
