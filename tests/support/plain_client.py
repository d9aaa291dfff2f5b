"""A client that is not ours: the generated stubs, tokens made by hand, and the protocol's pure functions to seal.

Nothing here is of ``keypost.client`` or ``keypost.transport``: what it is not kept from, no service keeps anybody from.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from keypost.clock import MINUTE, SECOND
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.errors import RefusedError
from keypost.protocol.suites import STRONG
from support.envelopes import new_header, open_text, seal
from support.service import error_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceAsyncStub
    from keypost.delivery.v1.envelope_pb2 import Envelope
    from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceAsyncStub
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair

Sign = Callable[[bytes], bytes]
Metadata = tuple[tuple[str, str], ...]
TOKEN_LIFETIME = 10 * MINUTE
HIDDEN = "Internal error from Core"
"""What gRPC says where a write met the end of its call, in place of how that ended."""


@dataclass
class PlainDevice:
    """A device with the stubs of the services.

    Attributes:
        pair: Its key pair.
        realm: The realm.
        clock: The time.
        find_record: Returns the record of a user.
        delivery: The stub of delivery.
        directory: The stub of the directory, where there is one.
        by_stream: Whether it hands envelopes in by SendStream, a stream each.
    """

    pair: DeviceKeyPair
    realm: str
    clock: Callable[[], int]
    find_record: Callable[[str], Awaitable[KeyRecord]]
    delivery: DeliveryServiceAsyncStub
    directory: DirectoryServiceAsyncStub | None = field(default=None)
    by_stream: bool = False

    def claims(self, **changes: object) -> dict[str, object]:
        """Return what a token of this device says, with ``changes``; None takes a claim away."""
        issued = self.clock() // SECOND
        claims: dict[str, object] = {
            "aud": f"{self.realm}/delivery",
            "sub": str(self.pair.address),
            "iat": issued,
            "exp": issued + TOKEN_LIFETIME // SECOND,
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, *, header: dict[str, object] | None = None, sign: Sign | None = None, **claims: object) -> str:
        """Return a token: honest, but for what is given."""
        usual = {"alg": "PS256" if self.pair.suite is STRONG else "RS256", "kid": self.pair.fingerprint.hex()}
        signed = ".".join(_part(json.dumps(part).encode()) for part in (usual | (header or {}), self.claims(**claims)))
        signature = (sign or self.sign)(signed.encode())
        return f"{signed}.{_part(signature)}"

    def sign(self, data: bytes) -> bytes:
        """Sign as tokens of this device are (RFC 7518: PS256, or RS256 in the weak suite)."""
        if self.pair.suite is STRONG:
            return self.pair.private_key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        return self.pair.private_key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def metadata(self, token: str | None = None) -> Metadata:
        """Return the metadata of a call; by default with an honest token for delivery."""
        return (("authorization", f"Bearer {token or self.token()}"),)

    async def envelope(self, recipient: str, text: str = "hello", **values: Any) -> Envelope:
        """Return an envelope to all good devices of a user.

        Args:
            recipient: The user.
            text: What it says.
            values: ``signer``, ``keys``, ``header_alone``, ``creator``, ``create_time`` as for ``seal``; the rest goes
                into the header.
        """
        own, peer = await self.find_record(self.pair.address.username), await self.find_record(recipient)
        now = self.clock()
        keys = values.pop("keys", None) or [
            key for key in sorted(peer.good_keys(now), key=lambda key: key.address) if key.address != self.pair.address
        ]
        signer = values.pop("signer", self.pair)
        of_seal = {name: values.pop(name, None) for name in ("header_alone", "creator", "create_time")}
        revisions = {"sender_revision": own.revision, "recipient_revision": peer.revision}
        header = new_header(self.realm, self.pair, recipient, now, **(revisions | values))
        return seal(header, signer, keys, text, now=now, **of_seal)

    async def deliver(self, envelope: Envelope, token: str | None = None) -> pb.SendResponse:
        """Hand an envelope in."""
        if self.by_stream:
            async with self.stream(token) as stream:
                return (await stream.results(envelope))[0]
        request = pb.SendRequest(envelope=envelope)
        response: pb.SendResponse = await self.delivery.Send(request, metadata=self.metadata(token), timeout=20)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, token: str | None = None) -> AsyncIterator[PlainSendStream]:
        """Open a stream to send on."""
        call: Any = self.delivery.SendStream(metadata=self.metadata(token), timeout=20)
        await call.wait_for_connection()
        try:
            yield PlainSendStream(call)
        finally:
            call.cancel()

    async def send(self, recipient: str, text: str = "hello", **values: Any) -> pb.SendResponse:
        """Send a message."""
        return await self.deliver(await self.envelope(recipient, text, **values))

    async def waiting(self, token: str | None = None, *acknowledged: str) -> list[pb.Delivery]:
        """Return what waits in the mailbox that a token opens, up to ``queue_empty``; then acknowledge some."""
        while True:
            try:
                return await self._waiting(token, *acknowledged)
            except grpc.aio.AioRpcError as error:
                if error.details() != HIDDEN:
                    raise

    async def _waiting(self, token: str | None, *acknowledged: str) -> list[pb.Delivery]:
        call: Any = self.delivery.Receive(metadata=self.metadata(token), timeout=20)
        # A write that crosses a refusal would hide it behind INTERNAL; the service sends its headers first.
        await call.wait_for_connection()
        await _say(call, pb.ReceiveRequest(start=pb.Start()))
        found: list[pb.Delivery] = []
        while (response := await call.read()) is not grpc.aio.EOF and response.HasField("batch"):
            found += response.batch.deliveries
        if acknowledged:
            await _say(call, pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=acknowledged)))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
        return found

    async def texts(self) -> list[str]:
        """Return what waits for this device, opened."""
        return [open_text(delivery.envelope, self.pair) for delivery in await self.waiting()]


@dataclass
class PlainSendStream:
    """An open SendStream call."""

    call: Any

    async def results(self, *envelopes: Envelope) -> list[pb.SendResponse]:
        """Hand a batch in, and return what became of it.

        Raises:
            RefusedError: as the service refused one of the envelopes, or held it.
        """
        await self.call.write(pb.SendStreamRequest(envelopes=envelopes))
        response = await self.call.read()
        if response is grpc.aio.EOF:
            raise RefusedError("EOF", "the stream has ended")
        return [_response(result) for result in response.results]


def _response(result: pb.SendResult) -> pb.SendResponse:
    if result.HasField("refusal"):
        refusal = result.refusal
        raise RefusedError(refusal.reason, refusal.message, retriable=False, **dict(refusal.metadata))
    if result.HasField("held"):
        raise RefusedError("HELD", "an earlier envelope was not stored")
    if result.HasField("stored"):
        return pb.SendResponse(stored=result.stored)
    return pb.SendResponse(stale_keys=result.stale_keys)


async def refusal(call: Awaitable[object]) -> tuple[str, str, dict[str, str]]:
    """Return how a call is refused: status, reason and metadata. Fails if it is not."""
    try:
        async with asyncio.timeout(20):
            await call
    except grpc.aio.AioRpcError as error:
        info = error_info(error)
        return error.code().name, info.reason, dict(info.metadata)
    raise AssertionError("the call was not refused")


async def reason(call: Awaitable[object]) -> str:
    """Return for which reason a call is refused. Fails if it is not."""
    return (await refusal(call))[1]


def pkcs1v15(pair: DeviceKeyPair) -> Sign:
    """Return a signer as for RS256, whatever the suite of the pair."""
    return lambda data: pair.private_key.sign(data, padding.PKCS1v15(), hashes.SHA256())


async def _say(call: Any, request: pb.ReceiveRequest) -> None:
    try:
        await call.write(request)
    except asyncio.InvalidStateError:
        return  # it has ended already; reading says why


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
