from __future__ import annotations

import asyncio
import contextlib
import io
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from keypost_services.runtime import background
from keypost_services.runtime.background import keep_running
from keypost_services.runtime.health import Health
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.metrics import HealthMetrics


class Bench:
    """What the work of a service tells, and where."""

    def __init__(self) -> None:
        self.output = io.StringIO()
        log = make_logger("example", "debug", "json", self.output)
        self.runtime: Any = SimpleNamespace(log=log, health=Health(log, HealthMetrics(CollectorRegistry())))


@pytest.mark.parametrize("fails", [True, False])
async def test_work_that_ends_is_said_and_begins_again(monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.0)
    bench = Bench()
    begun, again = 0, asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 2:
            again.set()
            await asyncio.Event().wait()
        if fails:
            raise RuntimeError("a bug")

    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(10):
        keep_running(stack, bench.runtime, "watch", work)
        await again.wait()
    why = "RuntimeError" if fails else "it ended"
    assert bench.runtime.health.degraded == {"watch": f"it failed and begins again: {why}"}
    assert ("background work failed" in bench.output.getvalue()) == fails


@pytest.mark.parametrize("lost", [1, 4])
async def test_work_that_loses_cancellations_is_cancelled_again(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    monkeypatch.setattr(background, "END_SECONDS", 0.0)
    bench, work = Bench(), Deaf(lost)
    async with asyncio.timeout(10):
        async with contextlib.AsyncExitStack() as stack:
            keep_running(stack, bench.runtime, "watch", work.run)
            await work.begun.wait()
        await work.ended.wait()
    assert bench.output.getvalue().count("background work does not end") >= lost
    assert "left behind" not in bench.output.getvalue()


async def test_work_that_never_ends_is_left_behind_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "END_SECONDS", 0.0)
    bench, work = Bench(), Deaf(background.MOST_CANCELLATIONS)
    async with asyncio.timeout(10):
        async with contextlib.AsyncExitStack() as stack:
            keep_running(stack, bench.runtime, "watch", work.run)
            await work.begun.wait()
        assert not work.ended.is_set()
        last = json.loads(bench.output.getvalue().splitlines()[-1])
        assert (last["event"], last["part"], last["level"]) == ("background work is left behind", "watch", "error")
        work.task.cancel()
        await work.ended.wait()


class Deaf:
    """Work that does not hear the first cancellations."""

    def __init__(self, lost: int) -> None:
        self.lost = lost
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.task: asyncio.Task[Any]

    async def run(self) -> None:
        self.task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.begun.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.lost == 0:
                    self.ended.set()
                    raise
                self.lost -= 1
