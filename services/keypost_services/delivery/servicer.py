"""The gRPC face of delivery: from messages to rules and back."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceServicer
from keypost_services.delivery import answers, convert
from keypost_services.delivery.errors import mailboxes_unavailable, start_missing
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.receiving import Device, Receiving
from keypost_services.delivery.send_stream import SendStream
from keypost_services.delivery.sending import Sending, Stale, Stored
from keypost_services.runtime.auth import current_caller
from keypost_services.runtime.errors import ServiceError, token_refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from keypost.protocol.key_info import Key
    from keypost_services.delivery.listing import Listing
    from keypost_services.delivery.mailboxes import Waiting
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.delivery.send_stream import Result


class DeliveryServicer(DeliveryServiceServicer):
    """Serves devices.

    Args:
        realm: The realm.
        sending: Takes envelopes in.
        receiving: Hands them out.
        listing: Says how many wait.
        metrics: Counts.
        health: Told why the mailboxes fail.
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
        start_seconds: float,
    ) -> None:
        self._realm = realm
        self._sending = sending
        self._receiving = receiving
        self._listing = listing
        self._metrics = metrics
        self._health = health
        self._start_seconds = start_seconds

    async def Send(self, request: pb.SendRequest, _context: Any) -> pb.SendResponse:  # noqa: N802  # the proto's name
        """Store an envelope for every device of its recipient."""
        try:
            with self._mailboxes_may_fail():
                outcome = await self._sending.send(_device_key(), convert.read_send(request, self._realm))
        except ServiceError as error:
            self._count(error)
            raise
        self._count(outcome)
        return answers.answer(outcome)

    async def SendStream(  # noqa: N802  # the proto's name
        self, request_iterator: AsyncIterator[pb.SendStreamRequest], _context: Any
    ) -> AsyncIterator[pb.SendStreamResponse]:
        """Store what comes in batches, and say in the same order what became of it."""
        stream = SendStream(self._sending, _device_key(), self._health)
        async for request in request_iterator:
            batch = convert.read_batch(request)
            stream.resume(request.resume)
            results = await stream.send([partial(convert.read_envelope, one, self._realm) for one in batch])
            for result in results:
                self._count(result)
            yield answers.results(results)

    def _count(self, result: Result) -> None:
        if isinstance(result, Stored):
            self._metrics.sent("duplicate" if result.duplicate else "accepted", result.appends)
        elif isinstance(result, ServiceError):
            self._metrics.sent(result.reason)
        else:
            self._metrics.sent("stale" if isinstance(result, Stale) else "held")

    async def Receive(  # type: ignore[override]  # noqa: N802  # it writes by itself, so that it can be ended at that
        self, request_iterator: AsyncIterator[pb.ReceiveRequest], context: Any
    ) -> None:
        """Hand out what waits in the mailbox of the calling device, and then what arrives."""
        start = await self._first(request_iterator)
        device = Device(
            address=_device_key().address,
            max_unacknowledged=convert.read_start(start),
            acknowledgements=_acknowledgements(request_iterator),
            outlet=_Outlet(context),
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


class _Outlet:
    """Writes to the call; a slow reader holds one response in memory."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def batch(self, waiting: Sequence[Waiting]) -> None:
        """Push envelopes."""
        await self._context.write(convert.batch(waiting))

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
