"""The delivery service, typed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from keypost.errors import UnreachableError
from keypost.transport.refusals import read_refusal
from keypost.transport.remote_service import RemoteService, nothing_new
from keypost.transport.send_stream import SendOneByOne, SendStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from keypost.tracing import Traces
    from keypost.transport.remote_service import OnRefused
    from keypost.transport.retries import Retries
    from keypost.transport.tokens import TokenSource

SERVICE = "delivery"
STREAM_SECONDS = 3_900.0
"""Longer than any stream of the service lives: beyond that it has forgotten this one."""
_FAREWELL = 0.5
"""Seconds."""


class ReceiveStream:
    """One open Receive call: yields what the service says, takes acknowledgements.

    Args:
        call: The grpc.aio call, on which nothing was written yet.
        max_unacknowledged: How many envelopes may be under way unacknowledged (1 to 256).
        endpoint: Where it is, for errors.

    Attributes:
        retry_after_ms: How long the service asked to wait before another one is opened, if it did.
    """

    def __init__(self, call: Any, max_unacknowledged: int, endpoint: str = "") -> None:
        self.retry_after_ms: int | None = None
        self._call = call
        self._endpoint = endpoint
        self._start = pb.ReceiveRequest(start=pb.Start(max_unacknowledged=max_unacknowledged))

    async def responses(self) -> AsyncIterator[pb.ReceiveResponse]:
        """Open the stream and yield what the service says until it ends.

        Raises:
            RefusedError: The service ended the stream and said why.
            UnreachableError: The stream broke.
        """
        await self._write(self._start)
        while True:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as failure:
                refusal = read_refusal(failure, SERVICE, self._endpoint)
                self.retry_after_ms = refusal.retry_after_ms
                raise refusal.error from None
            if response is grpc.aio.EOF:
                return
            yield response

    async def acknowledge(self, delivery_ids: Sequence[str]) -> None:
        """Tell the service that envelopes (at most 256) are safe here."""
        await self._write(pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=delivery_ids)))

    async def close(self) -> None:
        """End the call, giving acknowledgements a moment to arrive (a lost one only means a replay)."""
        # InternalError is what gRPC says while it does not know yet that a call has ended.
        over = (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError)
        with contextlib.suppress(*over, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._call.done_writing()
                while await self._call.read() is not grpc.aio.EOF:
                    pass
        self._call.cancel()

    async def _write(self, request: pb.ReceiveRequest) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as failure:
            raise read_refusal(failure, SERVICE, self._endpoint).error from None
        except asyncio.InvalidStateError:
            raise _ended() from None


def _ended() -> UnreachableError:
    return UnreachableError("the receiving stream has ended: open another", service=SERVICE)


class DeliveryClient:
    """Sends envelopes and receives them.

    Args:
        channel: To the delivery service.
        retries: Deadlines and retries.
        tokens: Tokens of the calling device.
        endpoint: Where it is, for errors.
        on_refused: See RemoteService.
        traces: Records calls.
        stream_seconds: After how long a receiving stream is given up whatever happens on it.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        retries: Retries,
        tokens: TokenSource,
        *,
        endpoint: str = "",
        on_refused: OnRefused = nothing_new,
        traces: Traces | None = None,
        stream_seconds: float = STREAM_SECONDS,
    ) -> None:
        self._stream_seconds = stream_seconds
        self._traces = traces
        self._stub = DeliveryServiceStub(channel)
        self._remote = RemoteService(SERVICE, retries, tokens, endpoint=endpoint, on_refused=on_refused, traces=traces)

    async def send(self, envelope: envelope_pb2.Envelope) -> pb.SendResponse:
        """Hand over an envelope (may be repeated: delivery knows it by sender device and message id).

        Raises:
            RefusedError: Delivery refused it; ALREADY_EXISTS comes as MESSAGE_ID_USED.
            UnreachableError: No answer.
        """
        return await self._remote.call(self._stub.Send, pb.SendRequest(envelope=envelope))

    def send_stream(self) -> SendStream:
        """Return a stream for what the calling device sends; nothing is sent before it is written to."""
        return SendStream(self._stub.SendStream(metadata=self._remote.metadata()), self._remote.endpoint)

    def send_one_by_one(self) -> SendOneByOne:
        """Return the same for a service that has no SendStream."""
        return SendOneByOne(self.send, self._traces)

    async def refresh_token(self) -> None:
        """After a token was refused: have the next call make a fresh one, by the key that is current then."""
        await self._remote.refresh_token()

    def receive(self, *, max_unacknowledged: int = 256) -> ReceiveStream:
        """Return a stream for the calling device's mailbox; nothing is sent before it is iterated."""
        call = self._stub.Receive(metadata=self._remote.metadata(), timeout=self._stream_seconds)
        return ReceiveStream(call, max_unacknowledged, self._remote.endpoint)

    async def list_mailboxes(self) -> Sequence[pb.Mailbox]:
        """Return how much waits for each device of the own user.

        Raises:
            RefusedError: DIRECTORY_UNAVAILABLE, MAILBOXES_UNAVAILABLE, TOKEN_REFUSED.
            UnreachableError: No answer.
        """
        return (await self._remote.call(self._stub.ListMailboxes, pb.ListMailboxesRequest())).mailboxes
