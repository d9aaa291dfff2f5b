"""What is counted about limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class LimitMetrics:
    """The metrics of the limits; nothing in them names a caller.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter("keypost_limits_refused", "Calls refused, by limit.", ["limit"], registry=registry)
        self.slowed = Counter(
            "keypost_limits_slowed", "Pauses that streams had to make, by limit.", ["limit"], registry=registry
        )
        self.away = Counter(
            "keypost_limits_away",
            "Questions that the limits server did not answer, by what came instead: local, refused, uncounted.",
            ["instead"],
            registry=registry,
        )
        self.seconds = Histogram(
            "keypost_limits_seconds",
            "Duration of questions to the limits server.",
            buckets=_SECONDS,
            registry=registry,
        )
