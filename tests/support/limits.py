"""Limits that a test can exhaust: in this process, on a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from keypost_services.runtime.limits.call_limits import Limits
from keypost_services.runtime.limits.limiter_guarded import FallingBackLimiter, RefusingLimiter
from keypost_services.runtime.limits.limiter_local import LocalLimiter
from keypost_services.runtime.limits.metrics import LimitMetrics
from keypost_services.runtime.limits.ports import LimitsAwayError
from keypost_services.runtime.limits.table import QUOTAS
from keypost_services.runtime.limits.text import read_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.runtime.limits.ports import Charge, Shortage
    from support.clock import ManualClock

UNLIMITED: dict[str, Any] = {
    "anonymous_calls_per_second": 1_000_000.0,
    "limits": ",".join(f"{name}=none" for name in QUOTAS),
}
"""Settings of a service that is to be asked without end."""


class AwayLimiter:
    """A Limiter that does not answer."""

    def spend(self, charges: Sequence[Charge]) -> bool:
        del charges
        return False

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        del charges
        raise LimitsAwayError("Redis: ConnectionError")

    async def book(self, charges: Sequence[Charge]) -> None:
        del charges
        raise LimitsAwayError("Redis: ConnectionError")


def local_limits(clock: ManualClock, text: str = "", *, away: bool = False) -> Limits:
    """Return limits as a service has them.

    Args:
        clock: The time.
        text: What an operator set.
        away: Whether the limits server is away.
    """
    metrics, local = LimitMetrics(CollectorRegistry()), LocalLimiter(clock)
    if not away:
        return Limits(lenient=local, strict=local, metrics=metrics, changed=read_limits(text))
    lenient = FallingBackLimiter(AwayLimiter(), local, metrics)
    return Limits(
        lenient=lenient, strict=RefusingLimiter(AwayLimiter(), metrics), metrics=metrics, changed=read_limits(text)
    )
