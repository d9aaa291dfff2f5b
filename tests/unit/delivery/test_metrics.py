"""What delivery counts of pushes: how long envelopes had waited, and which come again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from keypost.keys.v1 import key_info_pb2
from keypost_services.delivery.mailboxes import Waiting
from keypost_services.delivery.metrics import OFTEN, Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_800_000_000_000


def waiting(number: int, age: int, attempts: int = 1) -> Waiting:
    return Waiting(f"{number}-0", NOW - age, b"envelope", attempts)


def bench() -> tuple[Metrics, CollectorRegistry]:
    registry = CollectorRegistry()
    return Metrics(registry), registry


def sample(registry: CollectorRegistry, name: str, labels: Mapping[str, str] | None = None) -> float:
    value = registry.get_sample_value(f"keypost_delivery_{name}", dict(labels or {}))
    assert value is not None, name
    return value


def test_the_oldest_of_a_push_says_how_long_it_waited() -> None:
    metrics, registry = bench()
    metrics.pushed([waiting(1, 3_000), waiting(2, 1_000)], NOW, backlog=True)
    metrics.pushed([waiting(3, 20)], NOW, backlog=False)
    # Another machine's clock may be ahead.
    metrics.pushed([waiting(4, -500)], NOW, backlog=False)
    assert sample(registry, "pushed_total") == 4
    assert sample(registry, "wait_seconds_sum", {"phase": "backlog"}) == 3
    assert sample(registry, "wait_seconds_count", {"phase": "live"}) == 2
    assert sample(registry, "wait_seconds_sum", {"phase": "live"}) == 0.02


def test_what_was_handed_out_before_is_counted_and_not_taken_for_late() -> None:
    metrics, registry = bench()
    metrics.pushed([waiting(1, 9_000, OFTEN), waiting(2, 9_000, 2), waiting(3, 9_000)], NOW, backlog=True)
    assert sample(registry, "pushed_total") == 3
    assert sample(registry, "wait_seconds_count", {"phase": "backlog"}) == 0
    assert sample(registry, "pushed_again_total", {"times": "twice"}) == 1
    assert sample(registry, "pushed_again_total", {"times": "often"}) == 1


def test_key_events_say_how_late_they_were_acted_upon() -> None:
    metrics, registry = bench()
    metrics.key_events([key_info_pb2.KeyEvent(create_time=NOW - 250), key_info_pb2.KeyEvent(create_time=NOW)], NOW)
    assert sample(registry, "key_events_total") == 2
    assert sample(registry, "key_event_seconds_sum") == 0.25
