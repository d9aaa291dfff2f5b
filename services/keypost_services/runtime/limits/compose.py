"""Wires the limits of a service together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import SECOND
from keypost_services.runtime.breaker import Breaker
from keypost_services.runtime.config import variable_of
from keypost_services.runtime.limits.call_limits import Limits
from keypost_services.runtime.limits.limiter_guarded import FallingBackLimiter, RefusingLimiter, WatchedLimiter
from keypost_services.runtime.limits.limiter_leasing import LeasingLimiter
from keypost_services.runtime.limits.limiter_local import LocalLimiter
from keypost_services.runtime.limits.metrics import LimitMetrics
from keypost_services.runtime.limits.text import read_limits

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from prometheus_client import CollectorRegistry
    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost_services.runtime.config import ServiceSettings
    from keypost_services.runtime.health import Health

PART = "limits"


def open_limits(
    stack: AsyncExitStack,
    settings: ServiceSettings,
    *,
    clock: Clock,
    log: FilteringBoundLogger,
    health: Health,
    registry: CollectorRegistry,
) -> Limits:
    """Return the limits of a service; nobody is asked yet.

    Args:
        stack: Leaving it closes the connections.
        settings: Where the limits server is, and how much there is of everything.
        clock: The time.
        log: Told if each process counts for itself.
        health: Told when the limits server is away.
        registry: Where the metrics are registered.
    """
    metrics = LimitMetrics(registry)
    changed = read_limits(settings.limits)
    local = LocalLimiter(clock)
    if settings.limits_url is None:
        variable = variable_of(type(settings), "limits_url")
        log.warning("limits_of_this_process_alone", why=f"{variable} is not set: each process counts for itself")
        return Limits(lenient=local, strict=local, metrics=metrics, changed=changed)
    # Slow to import, and a process that counts for itself needs neither.
    from keypost_services.runtime.limits.limiter_redis import RedisLimiter  # noqa: PLC0415
    from keypost_services.runtime.redis import redis_client  # noqa: PLC0415

    health.expect(PART)
    seconds = settings.limits_timeout_seconds
    redis = redis_client(settings.limits_url, connect_seconds=seconds, answer_seconds=seconds)
    stack.push_async_callback(redis.aclose)
    shared = WatchedLimiter(
        RedisLimiter(redis, realm=settings.realm, timeout_ms=int(seconds * SECOND)),
        Breaker(clock, int(settings.limits_retry_seconds * SECOND)),
        lambda why: health.set_degraded(PART, why),
        metrics,
    )
    leasing = LeasingLimiter(shared, clock)
    stack.push_async_callback(leasing.close)
    return Limits(
        lenient=FallingBackLimiter(leasing, local, metrics),
        strict=RefusingLimiter(shared, metrics),
        metrics=metrics,
        changed=changed,
    )
