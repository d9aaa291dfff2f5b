"""Watches the CA's key events for as long as the directory runs, and acts upon each before anybody hears of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from keypost_services.directory.look_up.ports import EventBatch, SequenceAheadError
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.keys.v1 import key_info_pb2
    from keypost_services.directory.key_events.actions import Actions
    from keypost_services.directory.key_events.standing import Standing
    from keypost_services.directory.look_up.ports import EventSource
    from keypost_services.directory.metrics import Metrics

SILENCE_SECONDS = 45.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0


class EventGapError(Exception):
    """An event is missing between two that came."""


class Watcher:
    """Follows the CA's events; where the watch breaks it is resumed.

    Args:
        source: The CA's events.
        actions: What is done about them.
        standing: Told since when, and until when, they were acted upon.
        clock: Unix milliseconds.
        log: Where breaks are logged.
        metrics: Where they are counted.
        on_change: Called with None when the watch stands, and with a sentence when it breaks.
        jitter: Returns a number from 0 to 1, so that replicas do not return in step.
        silence_seconds: After so long without a message the watch counts as broken; the CA sends one every 15 s.
    """

    def __init__(  # noqa: PLR0913  # everything that it touches
        self,
        *,
        source: EventSource,
        actions: Actions,
        standing: Standing,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        on_change: Callable[[str | None], None],
        jitter: Callable[[], float],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._source = source
        self._actions = actions
        self._standing = standing
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._on_change = on_change
        self._jitter = jitter
        self._silence_seconds = silence_seconds
        self._sequence: int | None = None
        self._stands = asyncio.Event()

    async def wait_until_standing(self) -> None:
        """Return once the watch stands and what had happened before is acted upon."""
        await self._stands.wait()

    async def run(self) -> None:
        """Watch, and watch again whenever the watch breaks; never returns."""
        self._sequence = await self._actions.resume_after()
        if self._sequence is not None:
            self._standing.covers(0)
        pause = FIRST_PAUSE_SECONDS
        while True:
            why = await self._watch_until_broken()
            pause = FIRST_PAUSE_SECONDS if self._stands.is_set() else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._stands.clear()
            self._on_change(f"the watch of the CA's key events broke: {why}")
            self._log.warning("watch broken", why=why, sequence=self._sequence)
            await asyncio.sleep(pause * (0.5 + self._jitter() / 2))

    async def _watch_until_broken(self) -> str:
        why = "ended"
        try:
            await self._watch()
        except SourceAwayError as error:
            self._metrics.watch_breaks.labels(why="away").inc()
            return str(error)
        except TimeoutError:
            why = "silent"
        except EventGapError:
            why = "gap"
            await self._start_anew()
        except SequenceAheadError:
            why = "sequence_ahead"
            await self._start_anew()
        except Exception as error:  # noqa: BLE001  # an unforeseen fault must not end the watch for good
            why = "fault"
            self._log.error("watch failed", exc_info=error)
            await self._start_anew()
        self._metrics.watch_breaks.labels(why=why).inc()
        return why

    async def _watch(self) -> None:
        async with aclosing(self._source.watch(self._sequence)) as batches:
            while True:
                async with asyncio.timeout(self._silence_seconds):
                    batch = await anext(batches, None)
                if batch is None:
                    return
                await self._handle(batch)

    async def _handle(self, batch: EventBatch) -> None:
        if self._sequence is None:
            self._standing.covers(self._clock())
            self._sequence = batch.events[0].sequence - 1 if batch.events else batch.newest_sequence
        self._actions.begin_after(self._sequence)
        if events := self._new_events(batch, self._sequence):
            await self._actions.act(events)
            self._sequence = events[-1].sequence
        await self._actions.note_position(self._sequence)
        # While it catches up it cannot vouch for anything.
        if self._sequence >= batch.newest_sequence:
            self._note_standing()

    def _new_events(self, batch: EventBatch, sequence: int) -> Sequence[key_info_pb2.KeyEvent]:
        events = [event for event in batch.events if event.sequence > sequence]
        for expected, event in enumerate(events, sequence + 1):
            if event.sequence != expected:
                raise EventGapError
        return events

    def _note_standing(self) -> None:
        self._standing.alive()
        if not self._stands.is_set():
            self._stands.set()
            self._on_change(None)
            self._log.info("watch stands", sequence=self._sequence)

    async def _start_anew(self) -> None:
        self._log.error("key events lost: everything is dropped", sequence=self._sequence)
        self._sequence = None
        self._standing.lost()
        await self._actions.drop_all()
