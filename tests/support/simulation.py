"""The services of a realm in one process, behind one real TLS port, each with ways to misbehave.

They keep the contract of the protos in the simplest way there is, in memory, over ``support.realm``. A test reaches
into ``Services`` to break what a server or a peer could break.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from keypost.ca.v1 import ca_service_pb2_grpc as ca_grpc
from keypost.delivery.v1 import delivery_service_pb2 as delivery_pb
from keypost.delivery.v1 import delivery_service_pb2_grpc as delivery_grpc
from keypost.delivery.v1 import envelope_pb2
from keypost.directory.v1 import directory_service_pb2 as directory_pb
from keypost.directory.v1 import directory_service_pb2_grpc as directory_grpc
from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from keypost.protocol.errors import KeyUnknownError, TokenRefusedError
from keypost.protocol.history import later_history
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.tokens import peek_token, verify_token
from keypost.protocol.validity import check_can_act
from support.realm import REALM, SimulatedRealm
from support.refusing import refusal_of, refuse
from support.simulated_ca import SimulatedCa

if TYPE_CHECKING:
    from support.tls import TlsFiles

Fault = Callable[[Any], Awaitable[None]]


class Services:
    """The state of the services, and the faults that a test asks for.

    Attributes:
        realm: Users and keys.
        faults: By method: awaited with the context before the call is served, one a call.
        lost_answers: By method: how many answers get lost after the call was served.
        requests: By method: what was asked; each envelope of a stream counts as a Send.
        batches: What came over streams.
        serve_key_info: Changes what the directory says of a user.
        deliver: Changes what delivery hands out; returning nothing keeps it back.
        mailboxes: Deliveries by mailbox.
        held: How many envelopes of streams are held although none before them was refused, as where newer records have
            no room.
        in_batches: What waits is handed out in one batch, not one by one.
    """

    def __init__(self, realm: SimulatedRealm) -> None:
        self.realm = realm
        self.trust = realm.signed_trust()
        self.earlier: list[realm_trust_pb2.SignedRealmTrust] = []
        self.mailboxes: dict[Address, list[delivery_pb.Delivery]] = defaultdict(list)
        self.sent: dict[tuple[Address, bytes], tuple[bytes, int]] = {}
        self.batches: list[delivery_pb.SendStreamRequest] = []
        self.held = 0
        self.acknowledged: list[str] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.lost_answers: dict[str, int] = defaultdict(int)
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.serve_key_info: Callable[[str, key_info_pb2.KeyInfo], key_info_pb2.KeyInfo] = lambda _, info: info
        self.deliver: Callable[[delivery_pb.Delivery], delivery_pb.Delivery | None] = lambda delivery: delivery
        self.in_batches = False
        self.changed = asyncio.Condition()
        self.nonces: set[bytes] = set()
        self.streams = 0
        self.port = 0
        self._next_delivery = 0

    def bundle(self, tls: TlsFiles) -> realm_trust_pb2.Bundle:
        """Return the bundle from which clients start."""
        target = f"127.0.0.1:{self.port}"
        return realm_trust_pb2.Bundle(
            realm=REALM,
            endpoints=realm_trust_pb2.Endpoints(ca=target, directory=target, delivery=target),
            root_keys=[realm_trust_pb2.RootKey(public_key_der=self.realm.root.public_key_der)],
            tls_roots_pem=tls.roots_pem,
        )

    async def put(self, mailbox: Address, envelope: bytes, accept_time: int | None = None) -> str:
        """Put an envelope into a mailbox; return its delivery id."""
        async with self.changed:
            self._next_delivery += 1
            delivery = delivery_pb.Delivery(
                delivery_id=f"{self._next_delivery}-0",
                accept_time=self.realm.clock() if accept_time is None else accept_time,
                envelope=envelope,
            )
            self.mailboxes[mailbox].append(delivery)
            self.changed.notify_all()
            return delivery.delivery_id

    async def serve(self, method: str, request: Any, context: Any) -> None:
        """Note a call, and fail it if a test wants that."""
        self.requests[method].append(request)
        if self.faults[method]:
            await self.faults[method].pop(0)(context)

    async def answer(self, method: str, context: Any) -> None:
        """Lose the answer of a call that was served, if a test wants that."""
        if self.lost_answers[method]:
            self.lost_answers[method] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")

    async def caller(self, service: str, context: Any) -> Address:
        """Return who calls, by the token."""
        token = dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer ")
        try:
            claim = peek_token(token)
            record = self.realm.key_record(claim.address.username)
            key = record.get(claim.fingerprint)
            check_can_act(key, record, self.realm.clock())
            verify_token(token, key, f"{REALM}/{service}", self.realm.clock())
        except (TokenRefusedError, KeyError, Exception) as error:  # noqa: BLE001  # whatever it is, the caller is refused
            await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause=_cause(error))
        return claim.address

    def good(self, username: str) -> dict[str, bytes]:
        """Return the fingerprints of the good keys of a user by device id."""
        keys = self.realm.key_record(username).good_keys(self.realm.clock())
        return {key.address.device_id: key.fingerprint for key in keys}


def _cause(error: Exception) -> str:
    """Return why a token is refused, in the words of the real services."""
    if isinstance(error, TokenRefusedError):
        return error.metadata["cause"]
    return error.reason if isinstance(error, KeypostError) and not isinstance(error, KeyUnknownError) else "UNKNOWN_KEY"


def failing(code: grpc.StatusCode, reason: str, **details: Any) -> Fault:
    """Return a fault: the call is refused."""
    return lambda context: refuse(context, code, reason, **details)


def trimmed(key_info: key_info_pb2.KeyInfo, named: bytes) -> key_info_pb2.KeyInfo:
    """Return key info without the history that an asker holds who knows the key of this fingerprint."""
    if not named or not key_info.history:
        return key_info
    entries = key_info_pb2.UserKeys.FromString(key_info.record.user_keys).entries
    requests = [read_key_request(signed) for signed in (*key_info.history, *(entry.request for entry in entries))]
    later = later_history(requests[: len(key_info.history)], requests, requests[-1].epoch, named)
    return key_info_pb2.KeyInfo(record=key_info.record, history=[request.signed for request in later])


class SimulatedDirectory(directory_grpc.DirectoryServiceServicer):
    """The directory's public port."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.realm = services.realm

    async def GetRealmTrust(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("GetRealmTrust", request, context)
        return directory_pb.GetRealmTrustResponse(realm_trust=self.services.trust, earlier=self.services.earlier)

    async def GetKeyInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("GetKeyInfo", request, context)
        await self.services.caller("directory", context)
        if request.username not in self.realm.users:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", username=request.username)
        whole = self.realm.key_info(request.username)
        key_info = self.services.serve_key_info(request.username, trimmed(whole, request.history_from_fingerprint))
        return directory_pb.GetKeyInfoResponse(key_info=key_info)

    async def BatchGetKeyInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("BatchGetKeyInfo", request, context)
        raise NotImplementedError


class RefusedOneError(Exception):
    """One envelope of a stream is refused."""

    def __init__(self, refusal: delivery_pb.Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class OfOneEnvelope:
    """The context of one envelope of a stream: what refuses it explains itself, and ends nothing."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    async def abort(self, code: grpc.StatusCode, message: str = "", trailing_metadata: Any = ()) -> None:
        status = dict(trailing_metadata).get("grpc-status-details-bin")
        if isinstance(status, bytes):
            raise RefusedOneError(refusal_of(code, message, status))
        await self._context.abort(code, message)


class SimulatedDelivery(delivery_grpc.DeliveryServiceServicer):
    """Delivery's public port."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.realm = services.realm

    async def Send(self, request: Any, context: Any) -> Any:  # noqa: N802
        caller = await self.services.caller("delivery", context)
        response = await self._send(request, caller, context)
        await self.services.answer("Send", context)
        return response

    async def _send(self, request: Any, caller: Address, context: Any) -> Any:
        await self.services.serve("Send", request, context)
        envelope = request.envelope
        header = envelope_pb2.Header.FromString(envelope.header)
        if (caller.username, caller.device_id) != (header.sender.username, header.sender.device_id):
            await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "SENDER_IS_NOT_CALLER")
        response = await self._stored(header, envelope, context) or self._stale(header)
        if response is None:
            good = self.services.good(header.recipient_username)
            if header.recipient_username == header.sender.username:
                # In the conversation of a user with himself the sending device is no recipient.
                del good[header.sender.device_id]
            if {key.fingerprint for key in envelope.key_extension.sealed_keys} != set(good.values()):
                await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "SEALED_KEYS_MISMATCH")
            response = await self._store(header, envelope, good)
        return response

    async def SendStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("SendStream", None, context)
        caller = await self.services.caller("delivery", context)
        held: set[tuple[str, int, int]] = set()
        async for request in request_iterator:
            held = {place for place in held if place[0] not in request.resume}
            self.services.batches.append(request)
            results = [await self._result(envelope, caller, held, context) for envelope in request.envelopes]
            await self.services.answer("Send", context)
            yield delivery_pb.SendStreamResponse(results=results)

    async def _result(self, envelope: Any, caller: Address, held: set[Any], context: Any) -> delivery_pb.SendResult:
        header = envelope_pb2.Header.FromString(envelope.header)
        place = (header.recipient_username, header.sender_revision, header.recipient_revision)
        if self.services.held > 0:
            self.services.held -= 1
            held.add(place)
        if place in held:
            return delivery_pb.SendResult(held=delivery_pb.Held())
        try:
            response = await self._send(delivery_pb.SendRequest(envelope=envelope), caller, OfOneEnvelope(context))
        except RefusedOneError as refused:
            held.add(place)
            return delivery_pb.SendResult(refusal=refused.refusal)
        if response.HasField("stale_keys"):
            held.add(place)
            return delivery_pb.SendResult(stale_keys=response.stale_keys)
        return delivery_pb.SendResult(stored=response.stored)

    async def _stored(self, header: envelope_pb2.Header, envelope: envelope_pb2.Envelope, context: Any) -> Any:
        sender = Address(header.sender.username, header.sender.device_id)
        known = self.services.sent.get((sender, header.message_id))
        if known is None:
            return None
        if known[0] != envelope.SerializeToString():
            await refuse(context, grpc.StatusCode.ALREADY_EXISTS, "MESSAGE_ID_USED")
        return delivery_pb.SendResponse(stored=delivery_pb.Stored(accept_time=known[1], duplicate=True))

    def _stale(self, header: envelope_pb2.Header) -> Any:
        stale = delivery_pb.StaleKeys()
        sender, recipient = header.sender.username, header.recipient_username
        if header.sender_revision < self.realm.users[sender].revision:
            stale.sender.CopyFrom(self.realm.key_info(sender))
        if header.recipient_revision < self.realm.users[recipient].revision:
            stale.recipient.CopyFrom(self.realm.key_info(recipient))
        if stale.HasField("sender") or stale.HasField("recipient"):
            return delivery_pb.SendResponse(stale_keys=stale)
        return None

    async def _store(self, header: envelope_pb2.Header, envelope: envelope_pb2.Envelope, good: dict[str, bytes]) -> Any:
        sender = Address(header.sender.username, header.sender.device_id)
        now = self.realm.clock()
        self.services.sent[sender, header.message_id] = (envelope.SerializeToString(), now)
        for device_id, key_fingerprint in good.items():
            own = envelope_pb2.Envelope()
            own.CopyFrom(envelope)
            del own.key_extension.sealed_keys[:]
            own.key_extension.sealed_keys.extend(
                key for key in envelope.key_extension.sealed_keys if key.fingerprint == key_fingerprint
            )
            await self.services.put(Address(header.recipient_username, device_id), own.SerializeToString())
        return delivery_pb.SendResponse(stored=delivery_pb.Stored(accept_time=now))

    async def Receive(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("Receive", await anext(request_iterator), context)
        mailbox = await self.services.caller("delivery", context)
        self.services.streams += 1
        reader = asyncio.create_task(self._acknowledgements(request_iterator, mailbox))
        handed_out: set[str] = set()
        try:
            for delivery in self._next(mailbox, handed_out):
                yield delivery
            yield delivery_pb.ReceiveResponse(queue_empty=delivery_pb.QueueEmpty())
            if self.services.faults["ReceiveOpens"]:
                await self.services.faults["ReceiveOpens"].pop(0)(context)
            while not reader.done():
                for delivery in self._next(mailbox, handed_out):
                    yield delivery
                async with self.services.changed:
                    if reader.done() or any(True for _ in self._pending(mailbox, handed_out)):
                        continue
                    await self.services.changed.wait()
                if self.services.faults["ReceiveEnds"]:
                    await self.services.faults["ReceiveEnds"].pop(0)(context)
        finally:
            reader.cancel()

    async def ListMailboxes(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.services.serve("ListMailboxes", request, context)
        caller = await self.services.caller("delivery", context)
        devices = self.services.good(caller.username)
        waiting = {name: self.services.mailboxes[Address(caller.username, name)] for name in devices}
        return delivery_pb.ListMailboxesResponse(
            mailboxes=[
                delivery_pb.Mailbox(
                    device_id=device_id,
                    messages=len(deliveries),
                    oldest_accept_time=deliveries[0].accept_time if deliveries else 0,
                )
                for device_id, deliveries in waiting.items()
            ]
        )

    def _pending(self, mailbox: Address, handed_out: set[str]) -> Any:
        return (d for d in self.services.mailboxes[mailbox] if d.delivery_id not in handed_out)

    def _next(self, mailbox: Address, handed_out: set[str]) -> Any:
        batch = []
        for delivery in list(self._pending(mailbox, handed_out)):
            handed_out.add(delivery.delivery_id)
            delivery.attempts += 1
            changed = self.services.deliver(delivery)
            if changed is not None:
                batch.append(changed)
            if batch and not self.services.in_batches:
                yield delivery_pb.ReceiveResponse(batch=delivery_pb.Batch(deliveries=[batch.pop()]))
        if batch:
            yield delivery_pb.ReceiveResponse(batch=delivery_pb.Batch(deliveries=batch))

    async def _acknowledgements(self, requests: AsyncIterator[Any], mailbox: Address) -> None:
        try:
            async for request in requests:
                ids = set(request.acknowledge.delivery_ids)
                self.services.acknowledged.extend(request.acknowledge.delivery_ids)
                kept = [d for d in self.services.mailboxes[mailbox] if d.delivery_id not in ids]
                async with self.services.changed:
                    self.services.mailboxes[mailbox][:] = kept
                    self.services.changed.notify_all()
        finally:
            async with self.services.changed:
                self.services.changed.notify_all()


@asynccontextmanager
async def serving(services: Services, tls: TlsFiles) -> AsyncIterator[Services]:
    """Serve on a free port of loopback."""
    # A client may ask as often as it likes whether this end lives.
    server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0)])
    ca_grpc.add_CertificateAuthorityServiceServicer_to_server(SimulatedCa(services), server)
    directory_grpc.add_DirectoryServiceServicer_to_server(SimulatedDirectory(services), server)
    delivery_grpc.add_DeliveryServiceServicer_to_server(SimulatedDelivery(services), server)
    services.port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
    await server.start()
    try:
        yield services
    finally:
        await server.stop(None)
