"""What the directory counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Metrics:
    """The directory's metrics.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.look_ups = Counter(
            "keypost_directory_look_ups",
            "Users looked up, by the tier that answered",
            ["tier"],
            registry=registry,
        )
        self.ca_questions = Counter(
            "keypost_directory_ca_questions",
            "Questions to the CA for records, by how they ended",
            ["outcome"],
            registry=registry,
        )
        self.refused = Counter(
            "keypost_directory_records_refused",
            "Records that did not verify or went back, by where they came from",
            ["source", "reason"],
            registry=registry,
        )
        self.events = Counter("keypost_directory_key_events", "Key events acted upon", registry=registry)
        self.watch_breaks = Counter(
            "keypost_directory_watch_breaks", "How often the watch of the CA broke, by why", ["why"], registry=registry
        )
        self.newest_sequence = Gauge(
            "keypost_directory_newest_sequence", "The newest key event acted upon", registry=registry
        )
        self.watchers = Gauge("keypost_directory_watchers", "Watches that delivery services hold", registry=registry)
        self.up = Gauge(
            "keypost_directory_part_up", "Whether a part is there: redis, watch, trust", ["part"], registry=registry
        )
        self.trust_sequence = Gauge(
            "keypost_directory_trust_sequence", "The sequence of the realm's trust statement", registry=registry
        )
