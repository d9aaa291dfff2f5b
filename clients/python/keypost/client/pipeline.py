"""The stream on which everything goes out: in batches, many under way, opened anew whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.client.context import log, unforeseen
from keypost.client.own_watch import REVOKED_CAUSES
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.transport.refusals import UNEXPECTED_ANSWER, Refusal
from keypost.transport.remote_service import TOKEN_REFUSED
from keypost.transport.send_stream import Answer, StreamEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keypost.delivery.v1 import envelope_pb2
    from keypost.transport.delivery_client import DeliveryClient
    from keypost.transport.retries import Retries
    from keypost.transport.send_stream import OutgoingStream

MOST_IN_BATCH = 128
MOST_BATCH_BYTES = 256 * 1024
"""Far below what delivery takes: each answer shows that the connection lives."""
MOST_UNDER_WAY = 1_024
MOST_BYTES_UNDER_WAY = 4 * 1024 * 1024
IDLE = 30.0
"""Seconds after which a stream without work is ended."""
ONE_BY_ONE = 600.0
"""Seconds before a service that knew no SendStream is tried again."""
PATIENCE = 5
"""How often in a row a token may be refused: the services may not know a renewed key yet."""
FAREWELL = 5.0
"""Seconds that a stream which takes no more has to say why."""


@dataclass(frozen=True)
class Broken:
    """The stream ended before the answer came: the outcome is not known.

    Attributes:
        error: Why.
        final: Whether another stream would end the same way.
    """

    error: KeypostError
    final: bool


@dataclass(frozen=True)
class Outdated:
    """It was not handed over: the key that signed it is no longer this device's."""


@dataclass(frozen=True, eq=False)
class Parcel:
    """An envelope that goes out.

    Attributes:
        recipient: The user.
        envelope: The envelope.
        size: Its bytes.
        signer: The fingerprint of the key that signed its extension: the stream must be that key's.
        settle: Called once with what became of it.
        resume: It takes the conversation up again.
        trace_context: The trace in which it is recorded; empty: in none.
    """

    recipient: str
    envelope: envelope_pb2.Envelope = field(repr=False)
    size: int
    signer: bytes
    settle: Callable[[Answer | Broken | Outdated], None]
    resume: bool = False
    trace_context: str = ""


class Room:
    """So many envelopes and bytes under way, and no more; who waits for room gets it in turn."""

    def __init__(self, count: int, size: int) -> None:
        self._limits = (count, size)
        self._count = self._size = 0
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    async def take(self, count: int, size: int) -> None:
        """Wait until there is room. What is larger than all of it waits until nothing else is under way."""
        if not self._waiting and self._fits(count, size):
            self._add(count, size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count, size)
            raise

    def give(self, count: int, size: int) -> None:
        """Give room back."""
        self._add(-count, -size)
        while self._waiting and (self._waiting[0][2].cancelled() or self._fits(*self._waiting[0][:2])):
            count, size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._add(count, size)
                turn.set_result(None)

    def _add(self, count: int, size: int) -> None:
        self._count += count
        self._size += size

    def _fits(self, count: int, size: int) -> bool:
        most_count, most_size = self._limits
        return not self._count or (self._count + count <= most_count and self._size + size <= most_size)


class Pipeline:
    """Hands envelopes over in the order in which they come, and tells what became of each.

    Args:
        delivery: Where they go.
        retries: How long to wait for an answer, and before another stream is opened.
        signer: Returns the fingerprint of the key that opens a stream now.
        on_established: Called when answers come again after a failure.
    """

    def __init__(
        self,
        delivery: DeliveryClient,
        retries: Retries,
        *,
        signer: Callable[[], bytes],
        on_established: Callable[[], None],
    ) -> None:
        self._delivery = delivery
        self._retries = retries
        self._signer = signer
        self._on_established = on_established
        self.room = Room(MOST_UNDER_WAY, MOST_BYTES_UNDER_WAY)
        self._queue: deque[Parcel] = deque()
        self._flying: deque[deque[Parcel]] = deque()
        self._is_closed = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._tokens_refused = 0
        self._one_by_one_until: float | None = None
        self._is_one_by_one = False
        self._silence: asyncio.Timeout

    def submit(self, parcels: Sequence[Parcel]) -> None:
        """Hand parcels over; their room is taken. It is given back when they are settled."""
        self._queue.extend(parcels)
        self._changed.set()
        if not self._is_closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the stream, and open no other; what is under way is not settled."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Open streams as long as there is anything to hand over."""
        while self._queue:
            try:
                await self._one_stream()
            except StreamEndedError as ended:
                await self._break(ended.refusal)
            except KeypostError as error:
                await self._break(Refusal(error, retriable=False, retry_after_ms=None))
            except Exception as error:  # noqa: BLE001  # whoever waits must be told, whatever it is
                # Nothing that is under way may outlive its stream: answers of the next would be taken for its own.
                log.error("the sending stream failed: %s", type(error).__name__)
                await self._break(Refusal(unforeseen(error), retriable=False, retry_after_ms=None))

    async def _one_stream(self) -> None:
        """Serve one stream until it is idle, or of another key than what is to go out; or until it breaks."""
        signer, stream = self._signer(), self._open()
        try:
            async with asyncio.timeout(None) as self._silence:
                reader = asyncio.create_task(self._read(stream))
                writer = asyncio.create_task(self._write(stream, signer))
                try:
                    await self._converse(stream, reader, writer)
                finally:
                    stream.cancel()
                    for task in (reader, writer):
                        task.cancel()
                    await asyncio.gather(reader, writer, return_exceptions=True)
        except TimeoutError:
            raise StreamEndedError(_no_answer("the delivery service does not answer")) from None

    def _open(self) -> OutgoingStream:
        now, until = self._retries.monotonic(), self._one_by_one_until
        self._is_one_by_one = until is not None and now < until
        return self._delivery.send_one_by_one() if self._is_one_by_one else self._delivery.send_stream()

    async def _converse(self, stream: OutgoingStream, reader: asyncio.Task[None], writer: asyncio.Task[None]) -> None:
        await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        if not reader.done() and writer.exception() is None:
            await stream.finish()
            if not self._flying:
                return
            await asyncio.wait({reader})
            if reader.exception() is None and not self._flying:
                return
        elif not reader.done():
            await asyncio.wait({reader}, timeout=FAREWELL)
        for task in (reader, writer):
            if task.done():
                task.result()
        raise StreamEndedError(_no_answer("the sending stream has ended"))

    async def _write(self, stream: OutgoingStream, signer: bytes) -> None:
        """Write batches; return when the stream is to be ended in good order."""
        while True:
            self._changed.clear()
            while self._queue and self._queue[0].signer not in (signer, self._signer()):
                # Its key has been replaced since it was sealed, and delivery would refuse it.
                self._settle(self._queue.popleft(), Outdated())
            if not self._queue:
                if not await self._is_more():
                    return
            elif self._queue[0].signer != signer:
                return
            else:
                batch = self._next_batch(signer)
                self._flying.append(batch)
                self._listen(anew=False)
                resume = sorted({parcel.recipient for parcel in batch if parcel.resume})
                contexts = [parcel.trace_context for parcel in batch]
                await stream.write([parcel.envelope for parcel in batch], resume, contexts if any(contexts) else ())

    async def _is_more(self) -> bool:
        try:
            async with asyncio.timeout(IDLE):
                await self._changed.wait()
        except TimeoutError:
            return bool(self._flying)
        return True

    def _next_batch(self, signer: bytes) -> deque[Parcel]:
        batch, size = deque([self._queue.popleft()]), 0
        size = batch[0].size
        while self._queue and len(batch) < MOST_IN_BATCH and self._queue[0].signer == signer:
            size += self._queue[0].size
            if size > MOST_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _read(self, stream: OutgoingStream) -> None:
        async for answers in stream.answers():
            if not self._flying or len(self._flying[0]) != len(answers):
                raise StreamEndedError(_unexpected())
            batch = self._flying[0]
            for answer in answers:
                # One by one: whatever fails, the rest is still to be settled.
                self._settle(batch.popleft(), answer)
            self._flying.popleft()
            self._listen(anew=True)
            self._succeed()

    def _listen(self, *, anew: bool) -> None:
        """Have the stream end if it is silent for too long while something is under way."""
        if self._is_one_by_one or (not anew and self._silence.when() is not None):
            return
        with contextlib.suppress(RuntimeError):  # it has just run out
            now = asyncio.get_running_loop().time()
            self._silence.reschedule(now + self._retries.attempt_timeout if self._flying else None)

    def _succeed(self) -> None:
        had_failed, self._failures, self._tokens_refused = self._failures, 0, 0
        if had_failed:
            self._on_established()

    def _settle(self, parcel: Parcel, answer: Answer | Broken | Outdated) -> None:
        self.room.give(1, parcel.size)
        parcel.settle(answer)

    async def _break(self, refusal: Refusal) -> None:
        """Tell who waits that the stream broke; then wait before another one is opened."""
        try:
            broken = await self._judge(refusal)
        except Exception as error:  # noqa: BLE001  # as above
            log.error("the token could not be refreshed: %s", type(error).__name__)
            broken = Broken(unforeseen(error), final=True)
        left = [*(parcel for batch in self._flying for parcel in batch), *self._queue]
        self._flying.clear()
        self._queue.clear()
        for parcel in left:
            try:
                self._settle(parcel, broken)
            except Exception as error:  # noqa: BLE001  # the others are told all the same
                log.error("what became of an envelope could not be told: %s", type(error).__name__)
        delay = self._retries.backoff.delay(self._failures, refusal.retry_after_ms)
        self._failures += 1
        await self._retries.sleep(delay)

    async def _judge(self, refusal: Refusal) -> Broken:
        error = refusal.error
        if isinstance(error, RefusedError) and _is_unknown_method(error) and not self._is_one_by_one:
            self._one_by_one_until = self._retries.monotonic() + ONE_BY_ONE
            return Broken(error, final=False)
        if isinstance(error, RefusedError) and error.reason == TOKEN_REFUSED:
            self._tokens_refused += 1
            try:
                await self._delivery.refresh_token()
            except KeypostError as failure:
                return Broken(failure, final=True)
            is_over = error.metadata.get("cause") in REVOKED_CAUSES or self._tokens_refused >= PATIENCE
            return Broken(error, final=is_over)
        return Broken(error, final=not refusal.retriable)


def _is_unknown_method(error: RefusedError) -> bool:
    """Return whether this is what a service of an earlier version answers to SendStream."""
    is_unimplemented = error.reason == UNEXPECTED_ANSWER and error.metadata.get("code") == "UNIMPLEMENTED"
    return is_unimplemented or error.reason == "METHOD_NOT_ADMITTED"


def _no_answer(sentence: str) -> Refusal:
    return Refusal(UnreachableError(sentence, service="delivery"), retriable=True, retry_after_ms=None)


def _unexpected() -> Refusal:
    error = RefusedError(UNEXPECTED_ANSWER, "the delivery service answers to something else than it was asked")
    return Refusal(error, retriable=False, retry_after_ms=None)
