"""What the CA counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The CA's metrics; nothing in them names a user.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.record_keys_end_time = Gauge(
            "keypost_ca_record_keys_end_time_seconds",
            "Until when this CA can sign records, Unix time: the end of the last record key that it has.",
            registry=registry,
        )
        self.realm_refused = Counter(
            "keypost_ca_realm_refused", "Changes of the realm's files that were not taken up.", registry=registry
        )
        self.newest_sequence = Gauge(
            "keypost_ca_newest_sequence", "The newest key event in the database.", registry=registry
        )
        self.keys_ending = Gauge(
            "keypost_ca_keys_ending",
            "Good keys of devices that end within this time from now, counted every five minutes.",
            ("within",),
            registry=registry,
        )
        seconds = Histogram(
            "keypost_ca_database_seconds",
            "Duration of questions to the database and of changes in it, waiting for their turn included.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.reads, self.writes = seconds.labels("read"), seconds.labels("write")
        self.database_errors = Counter(
            "keypost_ca_database_errors",
            "Questions and changes that the database did not answer, or not in time.",
            registry=registry,
        )
