"""The directory's key events: they end what delivery holds of a user. The watch resumes where it broke."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import grpc

from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import KeyEventServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from structlog.typing import FilteringBoundLogger

    from keypost.keys.v1 import key_info_pb2
    from keypost_services.delivery.metrics import Metrics

QUIET_SECONDS = 45.0
"""The directory says something every 15 s; after so long without, the connection counts as lost."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class EventSource(Protocol):
    """Where key events come from: the directory's ``WatchKeyEvents``."""

    def __call__(self, after_sequence: int | None) -> AsyncGenerator[pb.WatchKeyEventsResponse, None]:
        """Stream events after a sequence, or (None) only those to come; raises :class:`grpc.aio.AioRpcError`."""
        ...


class EventListener(Protocol):
    """Who is told."""

    def key_changed(self, event: key_info_pb2.KeyEvent) -> None:
        """A user's record has changed."""
        ...

    def anything_changed(self) -> None:
        """Events were missed: any record may have changed."""
        ...


class _GapError(Exception):
    """An event is missing in the stream."""


def event_source(channel: grpc.aio.Channel) -> EventSource:
    """Return the key events of the directory behind a channel."""
    stub = KeyEventServiceStub(channel)

    async def watch(after_sequence: int | None) -> AsyncGenerator[pb.WatchKeyEventsResponse, None]:
        call = stub.WatchKeyEvents(pb.WatchKeyEventsRequest(after_sequence=after_sequence))
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    return watch


class KeyEventWatch:
    """Follows the key events for as long as :meth:`run` runs.

    Args:
        source: Where they come from.
        listener: Who is told.
        health: Told why there is no watch, or None when it stands.
        metrics: Counts events.
        log: Where losses are reported.
        jitter: Returns a number from 0 to 1, to spread reconnects.
    """

    def __init__(  # everything that it touches
        self,
        source: EventSource,
        listener: EventListener,
        health: Callable[[str | None], None],
        metrics: Metrics,
        log: FilteringBoundLogger,
        jitter: Callable[[], float],
    ) -> None:
        self._source = source
        self._listener = listener
        self._health = health
        self._metrics = metrics
        self._log = log
        self._jitter = jitter
        self._sequence: int | None = None
        self._stands = False

    async def run(self) -> None:
        """Watch, and begin again whenever the watch breaks."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            why = await self._watch_until_it_breaks()
            pause = FIRST_PAUSE_SECONDS if self._stands else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._stands = False
            self._health(why)
            self._log.warning("key_event_watch_broke", why=why, sequence=self._sequence)
            await asyncio.sleep(pause * (0.5 + self._jitter()))

    async def _watch_until_it_breaks(self) -> str:
        try:
            await self._watch()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                self._begin_anew()
            return f"the directory's watch failed: {error.code().name}"
        except TimeoutError:
            return "the directory's watch fell silent"
        except _GapError:
            self._begin_anew()
            return "a key event is missing"
        return "the directory ended the watch"

    async def _watch(self) -> None:
        # The iterator is closed by hand: left to the garbage collector the call would outlive the watch.
        responses = self._source(self._sequence)
        try:
            while True:
                async with asyncio.timeout(QUIET_SECONDS):
                    response = await anext(responses, None)
                if response is None:
                    return
                self._handle(response)
        finally:
            await responses.aclose()

    def _handle(self, response: pb.WatchKeyEventsResponse) -> None:
        if self._sequence is None:
            # Nobody knows what changed before the watch stood.
            self._sequence = response.events[0].sequence - 1 if response.events else response.newest_sequence
            self._listener.anything_changed()
        for event in response.events:
            if event.sequence > self._sequence + 1:
                raise _GapError
            self._sequence = max(self._sequence, event.sequence)
            self._listener.key_changed(event)
        self._metrics.key_events(len(response.events))
        self._stands = True
        self._health(None)

    def _begin_anew(self) -> None:
        self._sequence = None
        self._listener.anything_changed()
