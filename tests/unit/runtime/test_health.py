from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from keypost_services.runtime.health import LIVENESS, NOT_SERVING, READINESS, SERVING, STARTUP, UNKNOWN, Health
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.metrics import HealthMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def new_health() -> tuple[Health, CollectorRegistry, io.StringIO]:
    registry, output = CollectorRegistry(), io.StringIO()
    return Health(make_logger("x", "debug", "json", output), HealthMetrics(registry)), registry, output


def gauge(registry: CollectorRegistry, part: str) -> float | None:
    return registry.get_sample_value("keypost_degraded", {"part": part})


async def test_a_service_does_not_serve_until_it_says_so() -> None:
    health, _, _ = new_health()
    assert not health.serving
    health.set_serving("some.Service", serving=True)
    assert health.serving
    assert health.states == dict.fromkeys(("", READINESS, STARTUP, LIVENESS, "some.Service"), SERVING)


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


async def test_without_what_blocks_a_replica_gets_no_calls() -> None:
    health, registry, _ = new_health()
    health.set_serving("some.Service", serving=True)
    health.set_degraded("mailboxes", "away", blocks=True)
    # Somebody who knows less says it in other words.
    health.set_degraded("mailboxes", "does not answer")
    assert health.unready == "nothing can be served without: mailboxes"
    assert [health.states[name] for name in ("", READINESS, "some.Service")] == [NOT_SERVING] * 3
    assert health.states[LIVENESS] == SERVING
    assert registry.get_sample_value("keypost_ready") == 0
    health.set_degraded("mailboxes", "one of three is away", blocks=False)
    assert health.serving
    assert health.degraded == {"mailboxes": "one of three is away"}
    health.set_degraded("mailboxes", "away", blocks=True)
    health.set_degraded("mailboxes", None)
    assert [health.serving, registry.get_sample_value("keypost_ready")] == [True, 1]


async def test_what_is_awaited_blocks_until_it_is_there_and_nobody_is_warned() -> None:
    health, registry, output = new_health()
    health.expect("cache")
    health.expect("trust", awaited=True)
    health.set_serving(serving=True)
    assert (health.started, health.unready) == (True, "nothing can be served without: trust")
    assert [gauge(registry, part) for part in ("cache", "trust")] == [0, 0]
    health.set_degraded("trust", None)
    assert health.serving
    assert output.getvalue() == ""


async def test_start_service_and_end_are_told_apart() -> None:
    health, _, _ = new_health()
    assert (health.started, health.unready) == (False, "it starts")
    health.set_serving(serving=True)
    assert (health.started, health.unready) == (True, None)
    health.set_serving(serving=False)
    assert (health.started, health.unready) == (True, "it ends")


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
