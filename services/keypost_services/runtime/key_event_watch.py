"""Watches another service's key events for as long as a service runs; where the watch breaks it is resumed.

Events have consecutive sequences. Whoever cannot be sure to have heard of all drops everything and begins anew.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost.keys.v1 import key_info_pb2

SILENCE_SECONDS = 45.0
"""Services say something every 15 s; after so long without, the connection counts as lost."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0


class CannotResumeError(Exception):
    """The events wanted are no longer there, or have not been."""


class EventGapError(Exception):
    """An event is missing between two that came."""


@dataclass(frozen=True)
class EventBatch:
    """What one message of a watch brings.

    Attributes:
        events: In order; may be empty.
        newest_sequence: The sequence of the newest event there is.
    """

    events: tuple[key_info_pb2.KeyEvent, ...]
    newest_sequence: int


class EventSource(Protocol):
    """Where key events come from."""

    def watch(self, after_sequence: int | None) -> AsyncGenerator[EventBatch]:
        """Stream the events after ``after_sequence`` (None: those to come), the first batch at once.

        Raises:
            SourceAwayError: the stream broke.
            CannotResumeError: the source cannot begin after ``after_sequence``.
        """


class KeyEventListener(Protocol):
    """What a service does about key events."""

    async def resume_after(self) -> int | None:
        """Return the sequence up to which events were acted upon before this process began; None: nobody knows."""

    def begin_after(self, sequence: int, *, anew: bool) -> None:
        """A watch stands, and its events follow ``sequence``.

        Args:
            sequence: Where they begin.
            anew: Nobody knows what happened up to there.
        """

    async def act(self, events: Sequence[key_info_pb2.KeyEvent]) -> None:
        """Act upon these events, of which none came before."""

    async def reached(self, sequence: int, newest_sequence: int) -> None:
        """Everything up to ``sequence`` was acted upon; the newest event there is has ``newest_sequence``."""

    async def lose_all(self) -> None:
        """Events were missed: anything may have changed."""

    def broke(self, why: str) -> None:
        """The watch broke; ``why`` is one word."""


class GrpcEventSource:
    """The ``WatchKeyEvents`` of another service.

    Args:
        open_watch: Opens the call, after a sequence or (None) for what is to come.
        name: What messages call the service, such as ``the CA``.
    """

    def __init__(self, open_watch: Callable[[int | None], Any], name: str) -> None:
        self._open_watch = open_watch
        self._name = name

    async def watch(self, after_sequence: int | None) -> AsyncGenerator[EventBatch]:
        """Stream the events after ``after_sequence``; ends when the service ends the stream."""
        call = self._open_watch(after_sequence)
        try:
            async for response in call:
                yield EventBatch(tuple(response.events), response.newest_sequence)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                raise CannotResumeError from error
            raise SourceAwayError(f"{self._name} does not answer: {error.code().name}") from error
        finally:
            call.cancel()


class KeyEventWatch:
    """Follows key events.

    Args:
        source: Where they come from.
        listener: What is done about them.
        log: Where breaks are logged.
        on_change: Called with None when the watch stands, and with a sentence when it breaks.
        jitter: Returns a number from 0 to 1, so that replicas do not return in step.
        silence_seconds: After so long without a message the watch counts as broken.
    """

    def __init__(
        self,
        source: EventSource,
        listener: KeyEventListener,
        log: FilteringBoundLogger,
        *,
        on_change: Callable[[str | None], None],
        jitter: Callable[[], float],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._source = source
        self._listener = listener
        self._log = log
        self._on_change = on_change
        self._jitter = jitter
        self._silence_seconds = silence_seconds
        self._sequence: int | None = None
        self._has_begun = False
        self._must_lose_all = False
        self._stands = asyncio.Event()

    async def wait_until_standing(self) -> None:
        """Return once the watch stands and what had happened before is acted upon."""
        await self._stands.wait()

    async def run(self) -> None:
        """Watch, and watch again whenever the watch breaks, whatever broke it; never returns."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            word, why = await self._watch_until_broken()
            pause = FIRST_PAUSE_SECONDS if self._stands.is_set() else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._stands.clear()
            self._on_change(f"the watch of key events broke: {why}")
            self._listener.broke(word)
            self._log.warning("watch broken", why=why, sequence=self._sequence)
            await asyncio.sleep(pause * (0.5 + self._jitter() / 2))

    async def _watch_until_broken(self) -> tuple[str, str]:
        """Return why the watch broke, in a word and in a sentence."""
        try:
            await self._watch()
        except SourceAwayError as error:
            return "away", str(error)
        except TimeoutError:
            return "silent", "silent"
        except (EventGapError, CannotResumeError) as error:
            return await self._begin_anew("gap" if isinstance(error, EventGapError) else "cannot_resume")
        except asyncio.CancelledError:
            # A call that somebody else cancelled says the same as one's own end.
            if _is_cancelled():
                raise
            return "cancelled", "cancelled"
        except Exception as error:  # noqa: BLE001  # an unforeseen fault must not end the watch for good
            self._log.error("watch failed", exc_info=error)
            return await self._begin_anew("fault")
        return "ended", "ended"

    async def _watch(self) -> None:
        await self._prepare()
        is_first = True
        async with aclosing(self._source.watch(self._sequence)) as batches:
            while True:
                # A listener's libraries may lose a cancellation; without this the watch would never end.
                if _is_cancelled():
                    raise asyncio.CancelledError
                async with asyncio.timeout(self._silence_seconds):
                    batch = await anext(batches, None)
                if batch is None:
                    return
                await self._handle(batch, self._first(batch) if is_first else self._sequence or 0)
                is_first = False

    async def _prepare(self) -> None:
        if self._must_lose_all:
            await self._lose_all()
        if not self._has_begun:
            self._sequence = await self._listener.resume_after()
            self._has_begun = True

    def _first(self, batch: EventBatch) -> int:
        """Return after which sequence a watch begins whose first batch this is."""
        anew = self._sequence is None
        if self._sequence is None:
            self._sequence = batch.events[0].sequence - 1 if batch.events else batch.newest_sequence
        self._listener.begin_after(self._sequence, anew=anew)
        return self._sequence

    async def _handle(self, batch: EventBatch, sequence: int) -> None:
        if events := _new_events(batch, sequence):
            await self._listener.act(events)
            sequence = events[-1].sequence
        self._sequence = sequence
        await self._listener.reached(sequence, batch.newest_sequence)
        # While it catches up it does not stand.
        if sequence >= batch.newest_sequence and not self._stands.is_set():
            self._stands.set()
            self._on_change(None)
            self._log.info("watch stands", sequence=sequence)

    async def _begin_anew(self, why: str) -> tuple[str, str]:
        self._log.error("key events lost: everything is dropped", sequence=self._sequence)
        self._sequence = None
        self._has_begun = self._must_lose_all = True
        try:
            await self._lose_all()
        except Exception as error:  # noqa: BLE001  # tried again before the next watch
            self._log.error("dropping failed", exc_info=error)
        return why, why

    async def _lose_all(self) -> None:
        await self._listener.lose_all()
        self._must_lose_all = False


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _new_events(batch: EventBatch, sequence: int) -> Sequence[key_info_pb2.KeyEvent]:
    events = [event for event in batch.events if event.sequence > sequence]
    for expected, event in enumerate(events, sequence + 1):
        if event.sequence != expected:
            raise EventGapError
    return events
