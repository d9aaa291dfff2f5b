"""What every service counts."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.realm_trust import RealmTrust

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
EVENT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)
"""Buckets for how old key events are when they are acted upon."""
_LAG_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class CallMetrics:
    """The counters of calls.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter("keypost_calls", "Calls that ended.", ("method", "code"), registry=registry)
        self.seconds = Histogram(
            "keypost_call_seconds",
            "Duration of unary calls.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "keypost_refusals", "Calls that failed, by reason.", ("method", "reason"), registry=registry
        )
        self._under_way = Gauge(
            "keypost_calls_under_way", "Calls and streams under way.", ("method",), registry=registry
        )
        self._number_under_way: dict[str, int] = {}
        # Looking a child up by its labels takes longer than counting; methods are few, and so are codes.
        self.seconds_of = lru_cache(self.seconds.labels)
        self.calls_of = lru_cache(self.calls.labels)

    def begin(self, method: str) -> None:
        """Count a call as under way."""
        numbers = self._number_under_way
        if method not in numbers:
            # Asked for when somebody reads it: every call would otherwise take a lock twice.
            self._under_way.labels(method).set_function(lambda: numbers[method])
        numbers[method] = numbers.get(method, 0) + 1

    def end(self, method: str) -> None:
        """Count it no more."""
        self._number_under_way[method] -= 1


class HealthMetrics:
    """What the service says of itself.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge("keypost_ready", "1 if this replica should get calls, else 0.", registry=registry)
        self.degraded = Gauge(
            "keypost_degraded", "1 for each part that does less than it should, else 0.", ("part",), registry=registry
        )
        self.loop_lag = Histogram(
            "keypost_loop_lag_seconds",
            "How late the event loop came to its heartbeat, twice a second.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self.certificate_end_time = Gauge(
            "keypost_certificate_end_time_seconds",
            "When a certificate ends, Unix time.",
            ("certificate",),
            registry=registry,
        )
        self.trust_end_time = Gauge(
            "keypost_trust_end_time_seconds",
            "When the trust statement that this service holds ends, Unix time; 0 if it holds none.",
            registry=registry,
        )
        self.trust_sequence = Gauge(
            "keypost_trust_sequence", "The sequence of the trust statement that this service holds.", registry=registry
        )

    def holds_trust(self, trust: RealmTrust) -> None:
        """Say which trust statement this service holds."""
        self.trust_sequence.set(trust.sequence)
        self.trust_end_time.set(trust.until_time / 1_000)


def observe_ages(seconds: Histogram, events: Iterable[key_info_pb2.KeyEvent], now: int) -> None:
    """Observe how old key events are.

    Args:
        seconds: Where.
        events: As they came from another service, whose clock may be ahead.
        now: Unix milliseconds.
    """
    for event in events:
        seconds.observe(max(0, now - event.create_time) / 1_000)


def describe_process(registry: CollectorRegistry) -> None:
    """Register what is known of the process itself: its version, CPU time, memory and open files."""
    build = Gauge("keypost_build_info", "1, with the version that runs.", ("version",), registry=registry)
    build.labels(version("keypost")).set(1)
    ProcessCollector(registry=registry)
