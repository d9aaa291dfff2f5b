from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from keypost_services.runtime.health import NOT_SERVING, SERVING, UNKNOWN, Health
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.metrics import CallMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def new_health() -> tuple[Health, CollectorRegistry, io.StringIO]:
    registry, output = CollectorRegistry(), io.StringIO()
    return Health(make_logger("x", "debug", "json", output), CallMetrics(registry).degraded), registry, output


def gauge(registry: CollectorRegistry, part: str) -> float | None:
    return registry.get_sample_value("keypost_degraded", {"part": part})


async def test_a_service_does_not_serve_until_it_says_so() -> None:
    health, _, _ = new_health()
    assert not health.serving
    health.set_serving("some.Service", serving=True)
    assert health.serving
    assert health.states == {"": SERVING, "some.Service": SERVING}


async def test_a_degraded_part_is_said_once_and_the_service_goes_on_serving() -> None:
    health, registry, output = new_health()
    health.set_serving(serving=True)
    health.set_degraded("cache", "away")
    health.set_degraded("cache", "away")
    assert health.serving
    assert health.degraded == {"cache": "away"}
    assert health.states["cache"] == NOT_SERVING
    assert gauge(registry, "cache") == 1
    assert output.getvalue().count("degraded") == 1
    health.set_degraded("cache", None)
    health.set_degraded("other", None)
    assert health.degraded == {}
    assert health.states["cache"] == SERVING
    assert gauge(registry, "cache") == 0
    assert gauge(registry, "other") is None


async def take(states: AsyncIterator[int], count: int) -> list[int]:
    async with asyncio.timeout(5):
        return [await anext(states) for _ in range(count)]


async def test_a_watch_sees_the_state_now_and_each_change() -> None:
    health, _, _ = new_health()
    watch = health.changes("cache")
    assert await take(watch, 1) == [UNKNOWN]
    health.set_degraded("cache", "away")
    health.set_degraded("other", "away")
    assert await take(watch, 1) == [NOT_SERVING]
    waiting = asyncio.create_task(take(watch, 1))
    await asyncio.wait({waiting}, timeout=0.01)
    health.set_degraded("other", None)
    health.set_degraded("cache", None)
    assert await waiting == [SERVING]
