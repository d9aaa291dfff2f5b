"""Bytes are changed on their way: TLS refuses them, and what gRPC makes of that is no answer of a service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc, envelope_pb2
from keypost.errors import RefusedError, UnreachableError
from keypost.transport.channels import open_channel
from keypost.transport.delivery_client import DeliveryClient
from keypost.transport.refusals import read_refusal
from keypost.transport.retries import Backoff, Retries
from keypost.transport.send_stream import StreamEndedError
from keypost.transport.tokens import TokenSource
from support.faults.proxy import Backend, Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.tls import TlsFiles

LONG = 20
BROKEN = "Stream removed (Unwrap failed (TSI_DATA_CORRUPTED))"


class Signer:
    fingerprint = b"\1" * 32

    def mint(self, audience: str, now: int, lifetime_ms: int) -> str:  # noqa: ARG002
        return f"for-{audience}"


class GarbledDelivery(delivery_service_pb2_grpc.DeliveryServiceServicer):
    """Answers everything; the first answer of Send, each of SendStream, and what follows on Receive are garbled.

    Attributes:
        link: Over which it is called.
        requests: What it was asked.
    """

    link: Link

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def Send(self, request: Any, context: Any) -> pb.SendResponse:  # noqa: ARG002, N802
        self.requests.append(request)
        if len(self.requests) == 1:
            self.link.garble()
        return pb.SendResponse(stored=pb.Stored(accept_time=9))

    async def SendStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: ARG002, N802
        async for _ in request_iterator:
            self.link.garble()
            yield pb.SendStreamResponse(results=[pb.SendResult(stored=pb.Stored(accept_time=9))])

    async def Receive(self, request_iterator: Any, context: Any) -> Any:  # noqa: ARG002, N802
        await anext(request_iterator)
        yield pb.ReceiveResponse(queue_empty=pb.QueueEmpty())
        await anext(request_iterator)
        self.link.garble()
        yield pb.ReceiveResponse(queue_empty=pb.QueueEmpty())

    async def ListMailboxes(self, request: Any, context: Any) -> pb.ListMailboxesResponse:  # noqa: ARG002, N802
        return pb.ListMailboxesResponse()


@pytest.fixture
def service() -> GarbledDelivery:
    return GarbledDelivery()


@pytest.fixture
async def client(service: GarbledDelivery, tls: TlsFiles) -> AsyncIterator[DeliveryClient]:
    """A client that reaches the service over its link."""
    server = grpc.aio.server()
    delivery_service_pb2_grpc.add_DeliveryServiceServicer_to_server(service, server)
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
    await server.start()
    async with (
        Link("client>delivery", [Backend("delivery", port)]) as service.link,
        open_channel(service.link.target, tls.roots_pem) as channel,
    ):
        # A call may be made on the broken connection once more, before the channel has given it up.
        retries = Retries(attempts=50, backoff=Backoff(first=0.01, longest=0.05))
        yield DeliveryClient(channel, retries, TokenSource("example.org", Signer, lambda: 0))
    await server.stop(None)


async def test_a_call_whose_answer_was_garbled_is_repeated(client: DeliveryClient, service: GarbledDelivery) -> None:
    async with asyncio.timeout(LONG):
        assert (await client.send(envelope_pb2.Envelope())).stored.accept_time == 9
    assert len(service.requests) > 1, "the answer to the first one arrived"


async def test_a_sending_stream_whose_answer_was_garbled_is_to_be_opened_again(client: DeliveryClient) -> None:
    stream = client.send_stream()
    async with asyncio.timeout(LONG):
        await stream.write([envelope_pb2.Envelope()], [])
        with pytest.raises(StreamEndedError) as caught:
            _ = [answers async for answers in stream.answers()]
    assert isinstance(caught.value.refusal.error, UnreachableError)
    assert caught.value.refusal.retriable


async def test_a_receiving_stream_that_was_garbled_is_to_be_opened_again(client: DeliveryClient) -> None:
    async with asyncio.timeout(LONG):
        stream = client.receive()
        responses = stream.responses()
        assert (await anext(responses)).HasField("queue_empty")
        await stream.acknowledge(["1-0"])
        with pytest.raises(UnreachableError):
            await anext(responses)


@pytest.mark.parametrize(
    ("code", "trailer", "details"),
    [
        (grpc.StatusCode.UNKNOWN, (), "Unexpected <class 'ValueError'>: a bug"),
        (grpc.StatusCode.UNKNOWN, (("x-request-id", "theirs"),), BROKEN),
        (grpc.StatusCode.NOT_FOUND, (), BROKEN),
    ],
    ids=["other words", "a trailer", "another code"],
)
def test_what_a_server_says_is_an_answer(
    code: grpc.StatusCode, trailer: tuple[tuple[str, str], ...], details: str
) -> None:
    failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailer), details)
    refusal = read_refusal(failure, "delivery")
    assert isinstance(refusal.error, RefusedError)
    assert not refusal.retriable
