"""What delivery counts."""

from __future__ import annotations

from collections import Counter as Counting
from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from keypost_services.delivery.judging import Stale
from keypost_services.delivery.sending import Stored
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.metrics import EVENT_SECONDS, observe_ages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    from keypost.keys.v1 import key_info_pb2
    from keypost_services.delivery.mailboxes import Waiting
    from keypost_services.delivery.send_stream import Result

_WAIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 600, 3_600, 21_600, 86_400, 604_800)
_DEPTHS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 5_000, 8_000, 10_000, 30_000, 100_000)
OFTEN = 5
"""An envelope handed out so often has probably ended as many applications: the SDK gives up then too."""


class Metrics:
    """The service's metrics; nothing in them names a user."""

    def __init__(self, registry: CollectorRegistry) -> None:
        sends = Counter("keypost_delivery_sends", "Envelopes handed in, by outcome.", ["outcome"], registry=registry)
        # Looking a child up by its labels takes longer than counting; outcomes are few.
        self._sends_of = lru_cache(sends.labels)
        self._appends = Counter("keypost_delivery_mailbox_appends", "Envelopes put into mailboxes.", registry=registry)
        self._depth = Histogram(
            "keypost_delivery_mailbox_depth",
            "How many envelopes wait in a mailbox, whenever something was put into it.",
            buckets=_DEPTHS,
            registry=registry,
        )
        self.expired = Counter(
            "keypost_delivery_expired",
            "Envelopes older than the mailbox age, dropped when somebody put into their mailbox or read it.",
            registry=registry,
        )
        self.mailbox_errors = Counter(
            "keypost_delivery_mailbox_errors",
            "Commands that the mailbox servers did not carry out, or not as durably as promised.",
            registry=registry,
        )
        self.memory_share = Gauge(
            "keypost_delivery_mailbox_memory_share",
            "How much of its memory (maxmemory) the fullest mailbox server uses, from 0 to 1; 0 if it has no bound.",
            registry=registry,
        )
        wait = Histogram(
            "keypost_delivery_wait_seconds",
            "How long the oldest envelope of each push had waited, if it was handed out for the first time: live, to a "
            "device that had nothing left to fetch; backlog, to one that was away or is behind.",
            ["phase"],
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self._wait_live, self._wait_backlog = wait.labels("live"), wait.labels("backlog")
        again = Counter(
            "keypost_delivery_pushed_again",
            "Envelopes pushed that had been handed out before and not acknowledged: twice, or often (five times).",
            ["times"],
            registry=registry,
        )
        self._again, self._often = again.labels("twice"), again.labels("often")
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
        self._events = Counter("keypost_delivery_key_events", "Key events acted upon.", registry=registry)
        self._event_seconds = Histogram(
            "keypost_delivery_key_event_seconds",
            "From a change at the CA until delivery has acted upon it, by the clocks of both.",
            buckets=EVENT_SECONDS,
            registry=registry,
        )
        self._hook = Counter(
            "keypost_delivery_hook_wake_ups", "Wake-ups for a push gateway by outcome.", ["outcome"], registry=registry
        )
        self._hook_waiting = Gauge(
            "keypost_delivery_hook_waiting", "Devices that the push gateway is to be told of.", registry=registry
        )
        self._streams = Gauge("keypost_delivery_streams", "Open receiving streams.", registry=registry)
        self._ended = Counter(
            "keypost_delivery_streams_ended", "Ended receiving streams by reason.", ["reason"], registry=registry
        )

    def sent(self, results: Sequence[Result]) -> None:
        """Count envelopes handed in: ``accepted``, ``duplicate``, ``stale``, ``held`` or the reason of a refusal."""
        for outcome, number in Counting(map(_outcome, results)).items():
            self._sends_of(outcome).inc(number)
        self._appends.inc(sum(result.appends for result in results if isinstance(result, Stored)))

    def deepened(self, depth: int) -> None:
        """Observe how many envelopes wait in a mailbox into which something was put."""
        self._depth.observe(depth)

    def pushed(self, waiting: Sequence[Waiting], now: int, *, backlog: bool) -> None:
        """Count envelopes pushed, and how long they had waited (Unix milliseconds).

        Args:
            waiting: The envelopes, at least one, in order.
            now: The time.
            backlog: Whether the device has not been told yet that its queue is empty.
        """
        self._pushed.inc(len(waiting))
        if (oldest := waiting[0]).attempts == 1:
            seconds = self._wait_backlog if backlog else self._wait_live
            seconds.observe(max(0, now - oldest.accept_time) / 1_000)
            return
        # Attempts never grow from one envelope to the next: without the first, none was handed out before.
        self._again.inc(sum(1 < one.attempts < OFTEN for one in waiting))
        self._often.inc(sum(one.attempts >= OFTEN for one in waiting))

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

    def key_events(self, events: Sequence[key_info_pb2.KeyEvent], now: int) -> None:
        """Count key events, and how old they are (Unix milliseconds)."""
        self._events.inc(len(events))
        observe_ages(self._event_seconds, events, now)

    def hook_waits(self, count: Callable[[], int]) -> None:
        """Say how many devices are about to be woken, whenever somebody asks."""
        self._hook_waiting.set_function(count)

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
