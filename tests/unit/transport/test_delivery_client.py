from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc, envelope_pb2
from keypost.errors import RefusedError, UnreachableError
from keypost.transport.delivery_client import DeliveryClient, ReceiveStream
from keypost.transport.send_stream import SendStream
from keypost.transport.tokens import TokenSource
from support.refusing import refuse

if TYPE_CHECKING:
    from keypost.transport.retries import Retries

EMPTY = pb.ReceiveResponse(queue_empty=pb.QueueEmpty())
BATCH = pb.ReceiveResponse(batch=pb.Batch(deliveries=[pb.Delivery(delivery_id="1-0", accept_time=5)]))


class Signer:
    fingerprint = b"\1" * 32

    def mint(self, audience: str, now: int, lifetime_ms: int) -> str:  # noqa: ARG002
        return f"for-{audience}"


class ScriptedDelivery(delivery_service_pb2_grpc.DeliveryServiceServicer):
    def __init__(self, *, end: str = "") -> None:
        self.end = end
        self.requests: list[Any] = []
        self.token: str | None = None
        self.half_closed = asyncio.Event()

    async def Send(self, request: Any, context: Any) -> pb.SendResponse:  # noqa: N802
        self.requests.append(request)
        self.token = dict(context.invocation_metadata())["authorization"]
        return pb.SendResponse(stored=pb.Stored(accept_time=9))

    async def SendStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: ARG002, N802
        await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ADMITTED")
        yield None

    async def Receive(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(await anext(request_iterator))
        yield BATCH
        if self.end == "refused":
            await refuse(context, grpc.StatusCode.ABORTED, "RECEIVER_DISPLACED")
        if self.end == "too many":
            await refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after_ms=700)
        if self.end == "closed":
            return
        yield EMPTY
        async for request in request_iterator:
            self.requests.append(request)
        self.half_closed.set()

    async def ListMailboxes(self, request: Any, context: Any) -> pb.ListMailboxesResponse:  # noqa: ARG002, N802
        self.requests.append(request)
        return pb.ListMailboxesResponse(mailboxes=[pb.Mailbox(device_id="a" * 16, messages=2, oldest_accept_time=7)])

    def add_to(self, server: grpc.aio.Server) -> None:
        delivery_service_pb2_grpc.add_DeliveryServiceServicer_to_server(self, server)


@pytest.fixture
def tokens() -> TokenSource:
    return TokenSource("example.org", Signer, lambda: 0)


async def test_send_hands_over_the_envelope_with_the_token_for_delivery(
    connect: Any, retries: Retries, tokens: TokenSource
) -> None:
    service = ScriptedDelivery()
    client = DeliveryClient(await connect(service.add_to), retries, tokens)
    envelope = envelope_pb2.Envelope(header=b"header")
    assert (await client.send(envelope)).stored.accept_time == 9
    assert service.requests == [pb.SendRequest(envelope=envelope)]
    assert service.token == "Bearer for-example.org/delivery"


async def test_the_mailboxes_of_the_own_user_are_listed(connect: Any, retries: Retries, tokens: TokenSource) -> None:
    service = ScriptedDelivery()
    client = DeliveryClient(await connect(service.add_to), retries, tokens)
    assert [(one.device_id, one.messages) for one in await client.list_mailboxes()] == [("a" * 16, 2)]
    assert service.requests == [pb.ListMailboxesRequest()]


async def test_acknowledgements_arrive_before_the_stream_ends(
    connect: Any, retries: Retries, tokens: TokenSource
) -> None:
    service = ScriptedDelivery()
    stream = DeliveryClient(await connect(service.add_to), retries, tokens).receive(max_unacknowledged=7)
    async with asyncio.timeout(10):
        responses = stream.responses()
        assert await anext(responses) == BATCH
        await stream.acknowledge(["1-0"])
        assert await anext(responses) == EMPTY
        await stream.close()
        await service.half_closed.wait()
    assert service.requests == [
        pb.ReceiveRequest(start=pb.Start(max_unacknowledged=7)),
        pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=["1-0"])),
    ]


async def test_a_stream_that_the_service_ends_says_why(connect: Any, retries: Retries, tokens: TokenSource) -> None:
    service = ScriptedDelivery(end="refused")
    stream = DeliveryClient(await connect(service.add_to), retries, tokens).receive()
    async with asyncio.timeout(10):
        with pytest.raises(RefusedError) as caught:
            _ = [response async for response in stream.responses()]
        assert caught.value.reason == "RECEIVER_DISPLACED"
        with pytest.raises(UnreachableError):
            await stream.acknowledge(["1-0"])
        await stream.close()


async def test_a_stream_that_ends_in_good_order_ends(connect: Any, retries: Retries, tokens: TokenSource) -> None:
    service = ScriptedDelivery(end="closed")
    stream = DeliveryClient(await connect(service.add_to), retries, tokens).receive()
    async with asyncio.timeout(10):
        assert [response async for response in stream.responses()] == [BATCH]
        await stream.close()


async def test_a_stream_that_lives_longer_than_any_is_given_up(
    connect: Any, retries: Retries, tokens: TokenSource
) -> None:
    service = ScriptedDelivery()
    client = DeliveryClient(await connect(service.add_to), retries, tokens, stream_seconds=0.5)
    stream = client.receive()
    async with asyncio.timeout(10):
        with pytest.raises(UnreachableError):
            _ = [response async for response in stream.responses()]
        await stream.close()


async def test_a_stream_says_how_long_the_service_asks_to_wait(
    connect: Any, retries: Retries, tokens: TokenSource
) -> None:
    service = ScriptedDelivery(end="too many")
    stream = DeliveryClient(await connect(service.add_to), retries, tokens).receive()
    async with asyncio.timeout(10):
        with pytest.raises(RefusedError) as caught:
            _ = [response async for response in stream.responses()]
    assert caught.value.retriable
    assert stream.retry_after_ms == 700


class EndedUnnoticed:
    """A call that has ended, while grpc.aio has not heard of it yet: as gRPC then answers."""

    def __init__(self) -> None:
        self.is_cancelled = False

    async def done_writing(self) -> None:
        raise grpc.aio.InternalError('Failed "execute_batch"')

    def cancel(self) -> None:
        self.is_cancelled = True


async def test_a_call_that_has_just_ended_can_be_closed() -> None:
    call = EndedUnnoticed()
    await SendStream(call).finish()
    await ReceiveStream(call, 256).close()
    assert call.is_cancelled


async def test_a_stream_to_nowhere_is_unreachable(connect: Any, retries: Retries, tokens: TokenSource) -> None:
    channel = await connect(lambda _server: None)
    stream = DeliveryClient(channel, retries, tokens).receive()
    async with asyncio.timeout(10):
        with pytest.raises((UnreachableError, RefusedError)):
            _ = [response async for response in stream.responses()]
