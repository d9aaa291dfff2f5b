"""What the directory counts."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from keypost_services.runtime.metrics import EVENT_SECONDS, observe_ages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry

    from keypost.keys.v1 import key_info_pb2


class Metrics:
    """The directory's metrics; nothing in them names a user.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        look_ups = Counter(
            "keypost_directory_look_ups", "Users looked up, by the tier that answered.", ["tier"], registry=registry
        )
        # Looking a child up by its labels takes longer than counting.
        self.look_ups_of = lru_cache(look_ups.labels)
        self.cached_bytes = Gauge(
            "keypost_directory_cached_bytes",
            "About how much memory the records in this process take.",
            registry=registry,
        )
        self.redis_errors = Counter(
            "keypost_directory_redis_errors", "Questions that Redis did not answer.", registry=registry
        )
        self.ca_questions = Counter(
            "keypost_directory_ca_questions",
            "Questions to the CA for records, by how they ended.",
            ["outcome"],
            registry=registry,
        )
        self.refused = Counter(
            "keypost_directory_records_refused",
            "Records that did not verify or went back, by where they came from.",
            ["source", "reason"],
            registry=registry,
        )
        self.events = Counter("keypost_directory_key_events", "Key events acted upon.", registry=registry)
        self._event_seconds = Histogram(
            "keypost_directory_key_event_seconds",
            "From a change at the CA until this directory has acted upon it, by the clocks of both.",
            buckets=EVENT_SECONDS,
            registry=registry,
        )
        self.events_behind = Gauge(
            "keypost_directory_key_events_behind",
            "How many key events there were, when the CA last spoke, that were not acted upon yet.",
            registry=registry,
        )
        self.watch_breaks = Counter(
            "keypost_directory_watch_breaks", "How often the watch of the CA broke, by why.", ["why"], registry=registry
        )
        self.newest_sequence = Gauge(
            "keypost_directory_newest_sequence", "The newest key event acted upon.", registry=registry
        )
        self.watchers = Gauge("keypost_directory_watchers", "Watches that delivery services hold.", registry=registry)

    def acted_upon(self, events: Sequence[key_info_pb2.KeyEvent], now: int) -> None:
        """Count key events, and how old they are (Unix milliseconds)."""
        self.events.inc(len(events))
        observe_ages(self._event_seconds, events, now)
