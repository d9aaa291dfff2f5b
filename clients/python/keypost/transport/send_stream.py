"""SendStream, typed; and the same over Send, for services that do not know it yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.tracing import Traces
from keypost.transport.refusals import UNEXPECTED_ANSWER, Refusal, explained, read_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SERVICE = "delivery"
OF_THE_CALLER = frozenset({"TOKEN_REFUSED", "METHOD_NOT_ADMITTED", UNEXPECTED_ANSWER})
"""Refusals of Send that say nothing of the envelope."""

Answer = pb.Stored | pb.StaleKeys | Refusal | pb.Held
"""What became of one envelope."""


_Batch = tuple[Sequence[envelope_pb2.Envelope], Sequence[str]]


class StreamEndedError(Exception):
    """A stream has ended before all answers came.

    Attributes:
        refusal: Why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal.error))
        self.refusal = refusal


class OutgoingStream(Protocol):
    """Where envelopes go in batches, and their answers come from, in order."""

    async def write(
        self, envelopes: Sequence[envelope_pb2.Envelope], resume: Sequence[str], trace_contexts: Sequence[str] = ()
    ) -> None:
        """Hand over a batch; conversations with the users in ``resume`` are taken up again before it.

        Args:
            envelopes: The envelopes.
            resume: The users.
            trace_contexts: In which traces the envelopes are recorded, an empty text where one is not; or nothing.

        Raises:
            StreamEndedError: The stream has ended; ``answers`` says why.
        """
        ...

    def answers(self) -> AsyncIterator[Sequence[Answer]]:
        """Yield the answers to each batch, in the order of the envelopes, until the stream ends.

        Raises:
            StreamEndedError: The stream was ended or broke.
        """
        ...

    async def finish(self) -> None:
        """Say that no more comes; the answers to what was handed over still do."""
        ...

    def cancel(self) -> None:
        """End the call at once."""
        ...


class SendStream:
    """One open SendStream call.

    Args:
        call: The grpc.aio call, on which nothing was written yet.
        endpoint: Where it is, for errors.
    """

    def __init__(self, call: Any, endpoint: str = "") -> None:
        self._call = call
        self._endpoint = endpoint

    async def write(
        self, envelopes: Sequence[envelope_pb2.Envelope], resume: Sequence[str], trace_contexts: Sequence[str] = ()
    ) -> None:
        """Hand over a batch."""
        try:
            await self._call.write(
                pb.SendStreamRequest(envelopes=envelopes, resume=resume, trace_contexts=trace_contexts)
            )
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise StreamEndedError(_ended()) from None

    async def answers(self) -> AsyncIterator[Sequence[Answer]]:
        """Yield the answers to each batch."""
        while True:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as failure:
                raise StreamEndedError(self._why(failure)) from None
            if response is grpc.aio.EOF:
                return
            yield [read_answer(result) for result in response.results]

    def _why(self, failure: grpc.aio.AioRpcError) -> Refusal:
        refusal = read_refusal(failure, SERVICE, self._endpoint)
        if failure.code() is grpc.StatusCode.INTERNAL and refusal.error.reason == UNEXPECTED_ANSWER:
            # gRPC's own word for a stream that the service ended during a write; why it did, the next one is told.
            return _ended()
        return refusal

    async def finish(self) -> None:
        """Say that no more comes."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return

    def cancel(self) -> None:
        """End the call at once."""
        self._call.cancel()


class SendOneByOne:
    """As a SendStream, by one call of Send for each envelope: those of one conversation one after the other.

    Args:
        send: Makes the call; raises RefusedError and UnreachableError.
        traces: Records calls.
    """

    def __init__(
        self, send: Callable[[envelope_pb2.Envelope], Awaitable[pb.SendResponse]], traces: Traces | None = None
    ) -> None:
        self._send = send
        self._traces = traces or Traces()
        self._batches: asyncio.Queue[_Batch | None] = asyncio.Queue(1)
        self._held: set[tuple[str, int, int]] = set()

    async def write(
        self, envelopes: Sequence[envelope_pb2.Envelope], resume: Sequence[str], trace_contexts: Sequence[str] = ()
    ) -> None:
        """Hand over a batch."""
        # Whoever takes a conversation up again has read all answers to what was held in it.
        self._held = {place for place in self._held if place[0] not in resume}
        await self._batches.put((envelopes, trace_contexts or [""] * len(envelopes)))

    async def answers(self) -> AsyncIterator[Sequence[Answer]]:
        """Yield the answers to each batch."""
        while (batch := await self._batches.get()) is not None:
            yield await self._answers(*batch)

    async def finish(self) -> None:
        """Say that no more comes."""
        await self._batches.put(None)

    def cancel(self) -> None:
        """Nothing is open."""

    async def _answers(
        self, envelopes: Sequence[envelope_pb2.Envelope], trace_contexts: Sequence[str]
    ) -> Sequence[Answer]:
        places = [_place(envelope) for envelope in envelopes]
        answers: list[Answer] = [pb.Held()] * len(envelopes)

        async def conversation(username: str) -> None:
            for number, (envelope, place) in enumerate(zip(envelopes, places, strict=True)):
                if place[0] == username and place not in self._held:
                    with self._traces.following(trace_contexts[number]):
                        answers[number] = answer = await self._one(envelope)
                    is_there = isinstance(answer, pb.Stored) or _is_stored_already(answer)
                    if not is_there:
                        self._held.add(place)

        try:
            async with asyncio.TaskGroup() as group:
                for username in {place[0] for place in places}:
                    group.create_task(conversation(username))
        except* StreamEndedError as errors:
            raise errors.exceptions[0] from None
        return answers

    async def _one(self, envelope: envelope_pb2.Envelope) -> Answer:
        try:
            response = await self._send(envelope)
        except RefusedError as refused:
            refusal = Refusal(refused, refused.retriable, None)
            if refused.reason in OF_THE_CALLER:
                raise StreamEndedError(refusal) from None
            return refusal
        except UnreachableError as error:
            raise StreamEndedError(Refusal(error, retriable=True, retry_after_ms=None)) from None
        except KeypostError as error:
            raise StreamEndedError(Refusal(error, retriable=False, retry_after_ms=None)) from None
        return response.stored if response.HasField("stored") else response.stale_keys


def read_answer(result: pb.SendResult) -> Answer:
    """Return what one result of a stream says."""
    match result.WhichOneof("outcome"):
        case "stored":
            return result.stored
        case "stale_keys":
            return result.stale_keys
        case "held":
            return result.held
        case "refusal":
            said = result.refusal
            # 0 on the wire is "waiting does not help".
            wait = max(0, said.retry_after) or None
            return explained(SERVICE, said.code, said.reason, said.message, dict(said.metadata), retry_after_ms=wait)
    return explained(SERVICE, 0, "", "it says nothing", {}, retry_after_ms=None)


def _is_stored_already(answer: Answer) -> bool:
    return isinstance(answer, Refusal) and answer.error.reason == "MESSAGE_ID_USED"


def _place(envelope: envelope_pb2.Envelope) -> tuple[str, int, int]:
    header = envelope_pb2.Header.FromString(envelope.header)
    return header.recipient_username, header.sender_revision, header.recipient_revision


def _ended() -> Refusal:
    error = UnreachableError("the sending stream has ended: open another", service=SERVICE)
    return Refusal(error, retriable=True, retry_after_ms=None)
