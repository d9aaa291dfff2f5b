"""The directory's key events: they end what delivery holds of a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import KeyEventServiceStub
from keypost.keys.v1 import key_info_pb2
from keypost_services.runtime.key_event_watch import GrpcEventSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc.aio

    from keypost.clock import Clock
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.delivery.emptying import Emptying
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.delivery.records import Records
    from keypost_services.runtime.callers import VerifiedCallers


def event_source(channel: grpc.aio.Channel) -> GrpcEventSource:
    """Return the key events of the directory behind a channel."""
    stub = KeyEventServiceStub(channel)
    return GrpcEventSource(
        lambda after: stub.WatchKeyEvents(pb.WatchKeyEventsRequest(after_sequence=after)), "the directory"
    )


class KeyEventEffects:
    """What a key event ends: the record that is held, the callers and streams of the key that ended, and their mailbox.

    A newer record ends the same, if it is seen before its event.

    Args:
        records: The records.
        callers: Callers and their streams.
        emptying: Empties the mailboxes of revoked devices.
        metrics: Counts events.
        clock: The time.
    """

    def __init__(
        self, records: Records, callers: VerifiedCallers, emptying: Emptying, metrics: Metrics, clock: Clock
    ) -> None:
        self._records = records
        self._callers = callers
        self._emptying = emptying
        self._metrics = metrics
        self._clock = clock

    async def resume_after(self) -> int | None:
        """Return None: nothing is held when the process begins."""
        return None

    def begin_after(self, sequence: int, *, anew: bool) -> None:
        """Drop and doubt what rests on look-ups from before the watch stood: nobody knows what changed meanwhile."""
        del sequence
        if anew:
            self._records.forget_all()
            self._callers.doubt_all()

    async def act(self, events: Sequence[key_info_pb2.KeyEvent]) -> None:
        """End what these events end."""
        for event in events:
            self._records.changed(event.username, event.revision)
            if event.kind == key_info_pb2.KEY_EVENT_KIND_REVOKED:
                # Keys that a compromised one vouched for end with it; which they are, only the record says.
                self._callers.drop_user(event.username)
                self._emptying.revoked(event.username, event.revision)
            elif event.ended_fingerprint:
                self._callers.drop_key(event.ended_fingerprint)
        self._metrics.key_events(events, self._clock())

    def saw(self, previous: KeyRecord | None, record: KeyRecord) -> None:
        """End what a newer record shows to have ended: the key event that says so may still be on its way.

        So no envelope that relies on this record is pushed here over a stream of a key that it has replaced: who holds
        that one may be a copy of the device that can neither open it nor may acknowledge it.

        Args:
            previous: The record that was known before, if any was.
            record: The newest, verified.
        """
        self._emptying.saw(previous, record)
        # Most users who are looked up for the first time have not called, and to look for callers takes a while.
        if previous is not None or self._callers.has_streams_of(record.username):
            good = {key.fingerprint for key in record.unended_keys}
            self._callers.drop_others(record.username, good)

    async def reached(self, sequence: int, newest_sequence: int) -> None:
        """Nothing is noted: a process that begins anew holds nothing."""

    async def lose_all(self) -> None:
        """Drop all records; callers and streams are doubted once a watch stands that says what comes after."""
        self._records.forget_all()

    def broke(self, why: str) -> None:
        """The health says it, and the log."""
