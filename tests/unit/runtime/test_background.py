from __future__ import annotations

import asyncio
import contextlib
import io
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from keypost_services.runtime import background
from keypost_services.runtime.background import keep_running
from keypost_services.runtime.health import Health
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.metrics import CallMetrics


@pytest.mark.parametrize("fails", [True, False])
async def test_work_that_ends_is_said_and_begins_again(monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.0)
    output = io.StringIO()
    log = make_logger("example", "debug", "json", output)
    runtime: Any = SimpleNamespace(log=log, health=Health(log, CallMetrics(CollectorRegistry()).degraded))
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
        keep_running(stack, runtime, "watch", work)
        await again.wait()
    why = "RuntimeError" if fails else "it ended"
    assert runtime.health.degraded == {"watch": f"it failed and begins again: {why}"}
    assert ("background work failed" in output.getvalue()) == fails
