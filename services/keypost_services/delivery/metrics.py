"""What delivery counts."""

from __future__ import annotations

from collections import Counter as Counting
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from keypost_services.delivery.judging import Stale
from keypost_services.delivery.sending import Stored
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry

    from keypost_services.delivery.send_stream import Result


class Metrics:
    """The service's metrics; nothing in them names a user."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sends = Counter("keypost_delivery_sends", "Sends by outcome.", ["outcome"], registry=registry)
        self._appends = Counter("keypost_delivery_mailbox_appends", "Envelopes put into mailboxes.", registry=registry)
        self._pushed = Counter("keypost_delivery_pushed", "Envelopes pushed to devices.", registry=registry)
        self._acknowledged = Counter(
            "keypost_delivery_acknowledged", "Envelopes acknowledged by devices.", registry=registry
        )
        self._deleted = Counter(
            "keypost_delivery_deleted", "Envelopes deleted because their device was revoked.", registry=registry
        )
        self._wake_ups = Counter("keypost_delivery_wake_ups", "Wake-ups received.", registry=registry)
        self._look_ups = Counter(
            "keypost_delivery_look_ups", "Questions to the directory by outcome.", ["outcome"], registry=registry
        )
        self._events = Counter("keypost_delivery_key_events", "Key events received.", registry=registry)
        self._hook = Counter(
            "keypost_delivery_hook_wake_ups", "Wake-ups for a push gateway by outcome.", ["outcome"], registry=registry
        )
        self._streams = Gauge("keypost_delivery_streams", "Open receiving streams.", registry=registry)
        self._ended = Counter(
            "keypost_delivery_streams_ended", "Ended receiving streams by reason.", ["reason"], registry=registry
        )

    def sent(self, results: Sequence[Result]) -> None:
        """Count envelopes handed in: ``accepted``, ``duplicate``, ``stale``, ``held`` or the reason of a refusal."""
        for outcome, number in Counting(map(_outcome, results)).items():
            self._sends.labels(outcome).inc(number)
        self._appends.inc(sum(result.appends for result in results if isinstance(result, Stored)))

    def pushed(self, count: int) -> None:
        """Count envelopes pushed."""
        self._pushed.inc(count)

    def acknowledged(self, count: int) -> None:
        """Count envelopes acknowledged."""
        self._acknowledged.inc(count)

    def deleted(self, count: int) -> None:
        """Count envelopes deleted because their device was revoked."""
        self._deleted.inc(count)

    def woken(self) -> None:
        """Count a wake-up."""
        self._wake_ups.inc()

    def woken_by_hook(self, outcome: str) -> None:
        """Count what became of a wake-up for a push gateway, or (``failed``) of one attempt at it."""
        self._hook.labels(outcome).inc()

    def look_up(self, outcome: str) -> None:
        """Count a question to the directory; ``OK`` or the reason why its answer was of no use."""
        self._look_ups.labels(outcome).inc()

    def key_events(self, count: int) -> None:
        """Count key events."""
        self._events.inc(count)

    def stream_opened(self) -> None:
        """Count a stream."""
        self._streams.inc()

    def stream_ended(self, reason: str) -> None:
        """Count the end of a stream; ``CLIENT`` or the reason why the service ended it."""
        self._streams.dec()
        self._ended.labels(reason).inc()


def _outcome(result: Result) -> str:
    if isinstance(result, Stored):
        return "duplicate" if result.duplicate else "accepted"
    if isinstance(result, ServiceError):
        return result.reason
    return "stale" if isinstance(result, Stale) else "held"
