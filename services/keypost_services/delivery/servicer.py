"""The gRPC face of delivery: from messages to rules and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceServicer
from keypost.tracing import here
from keypost_services.delivery import answers, convert
from keypost_services.delivery.envelopes import Envelopes
from keypost_services.delivery.errors import SOON_MS, mailboxes_unavailable, start_missing
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.receiving import Device, Receiving
from keypost_services.delivery.send_stream import Batch, SendStream
from keypost_services.runtime.auth import current_caller
from keypost_services.runtime.errors import ServiceError, rate_limited, token_refused
from keypost_services.runtime.limits.batches import batch_charges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from keypost.delivery.v1 import envelope_pb2
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key
    from keypost_services.delivery.envelopes import Incoming
    from keypost_services.delivery.listing import Listing
    from keypost_services.delivery.mailboxes import Waiting
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.delivery.send_stream import Result
    from keypost_services.delivery.sending import Sending
    from keypost_services.delivery.tracing import MessageTraces
    from keypost_services.runtime.limits.batches import BatchCharges


MOST_SENDING_STREAMS = 8
"""Of one device, at this replica: one that is used, and those whose connection was lost and that end by and by."""


class DeliveryServicer(DeliveryServiceServicer):
    """Serves devices.

    Args:
        realm: The realm.
        sending: Takes envelopes in.
        receiving: Hands them out.
        listing: Says how many wait.
        metrics: Counts.
        health: Told why the mailboxes fail.
        traces: Tells of messages that are recorded.
        start_seconds: How long a stream may take to begin.
    """

    def __init__(
        self,
        realm: str,
        sending: Sending,
        receiving: Receiving,
        listing: Listing,
        metrics: Metrics,
        health: Callable[[str | None], None],
        *,
        traces: MessageTraces,
        start_seconds: float,
    ) -> None:
        self._envelopes = Envelopes(realm)
        self._sending = sending
        self._receiving = receiving
        self._listing = listing
        self._metrics = metrics
        self._health = health
        self._traces = traces
        self._start_seconds = start_seconds
        self._sending_streams: Counter[Address] = Counter()

    async def Send(self, request: pb.SendRequest, _context: Any) -> pb.SendResponse:  # noqa: N802  # the proto's name
        """Store an envelope for every device of its recipient."""
        try:
            with self._mailboxes_may_fail():
                incoming = self._envelopes.read_send(request)
                incoming.trace_context = here()
                outcome = await self._sending.send(_device_key(), incoming)
        except ServiceError as error:
            self._metrics.sent([error])
            raise
        self._metrics.sent([outcome])
        return answers.answer(outcome)

    async def SendStream(  # type: ignore[override]  # noqa: N802  # it writes by itself, so that it can be ended at that
        self, request_iterator: AsyncIterator[pb.SendStreamRequest], context: Any
    ) -> None:
        """Store what comes in batches, and say in the same order what became of it."""
        key, charges = _device_key(), batch_charges()
        stream = SendStream(self._sending, key, self._health, charges.unknown, traces=self._traces)
        with self._one_of_few(key.address):
            await stream.run(self._batches(request_iterator, charges), _Results(context, self._metrics))

    @contextlib.contextmanager
    def _one_of_few(self, address: Address) -> Iterator[None]:
        """Count a sending stream of a device: each holds batches in memory, and one is all that a device needs."""
        self._check_streams(address)
        self._sending_streams[address] += 1
        try:
            yield
        finally:
            self._sending_streams[address] -= 1
            if not self._sending_streams[address]:
                del self._sending_streams[address]

    def _check_streams(self, address: Address) -> None:
        if self._sending_streams[address] >= MOST_SENDING_STREAMS:
            raise rate_limited("sending streams of this device under way", SOON_MS)

    async def _batches(
        self, requests: AsyncIterator[pb.SendStreamRequest], charges: BatchCharges
    ) -> AsyncIterator[Batch]:
        async for request in requests:
            envelopes, trace_contexts = convert.read_batch(request), convert.read_trace_contexts(request)
            # Who sends more than there is for him is read on later.
            await charges.take(len(envelopes))
            yield Batch([self._read(envelope) for envelope in envelopes], frozenset(request.resume), trace_contexts)

    def _read(self, envelope: envelope_pb2.Envelope) -> Incoming | ServiceError:
        try:
            return self._envelopes.read(envelope)
        except ServiceError as error:
            return error

    async def Receive(  # type: ignore[override]  # noqa: N802  # it writes by itself, so that it can be ended at that
        self, request_iterator: AsyncIterator[pb.ReceiveRequest], context: Any
    ) -> None:
        """Hand out what waits in the mailbox of the calling device, and then what arrives."""
        start = await self._first(request_iterator)
        device = Device(
            address=_device_key().address,
            max_unacknowledged=convert.read_start(start),
            acknowledgements=_acknowledgements(request_iterator),
            outlet=_Outlet(context, self._traces),
        )
        with self._mailboxes_may_fail():
            await self._receiving.receive(device)

    async def ListMailboxes(  # noqa: N802  # the proto's name
        self, _request: pb.ListMailboxesRequest, _context: Any
    ) -> pb.ListMailboxesResponse:
        """Say how much waits for each device of the caller's own user."""
        with self._mailboxes_may_fail():
            return convert.mailboxes(await self._listing.of_user(_device_key()))

    async def _first(self, requests: AsyncIterator[pb.ReceiveRequest]) -> pb.ReceiveRequest:
        # Until it has begun nothing displaces a stream: a silent one must not last.
        try:
            async with asyncio.timeout(self._start_seconds):
                return await anext(requests, pb.ReceiveRequest())
        except TimeoutError as error:
            raise start_missing() from error

    @contextlib.contextmanager
    def _mailboxes_may_fail(self) -> Iterator[None]:
        try:
            yield
        except MailboxesUnavailableError as error:
            self._health(str(error))
            raise mailboxes_unavailable(error) from error


class _Results:
    """Writes the results of a sending stream to the call; a slow reader holds one response in memory."""

    def __init__(self, context: Any, metrics: Metrics) -> None:
        self._context = context
        self._metrics = metrics

    async def results(self, results: Sequence[Result]) -> None:
        """Say what became of the envelopes of a batch."""
        self._metrics.sent(results)
        await self._context.write(answers.results(results))


class _Outlet:
    """Writes to the call; a slow reader holds one response in memory."""

    def __init__(self, context: Any, traces: MessageTraces) -> None:
        self._context = context
        self._traces = traces

    async def batch(self, waiting: Sequence[Waiting]) -> None:
        """Push envelopes."""
        with self._traces.pushing(waiting) as pushed:
            await self._context.write(convert.batch(pushed))

    async def queue_empty(self) -> None:
        """Say that the backlog is handed out."""
        await self._context.write(convert.queue_empty())


async def _acknowledgements(requests: AsyncIterator[pb.ReceiveRequest]) -> AsyncIterator[Sequence[str]]:
    async for request in requests:
        yield convert.read_acknowledge(request)


def _device_key() -> Key:
    key = current_caller().key
    if key is None:
        # The method table admits devices alone; whoever changes that meets this.
        raise token_refused("MISSING")
    return key
