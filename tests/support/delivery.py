"""Delivery as it runs, for tests: the service over TLS, a simulated directory over mutual TLS, devices that call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from google.protobuf import json_format

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from keypost.directory.v1 import directory_service_pb2 as directory_pb
from keypost.directory.v1 import directory_service_pb2_grpc as directory_grpc
from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from keypost.protocol.envelope import Header
from keypost.protocol.tokens import audience_of, mint_token
from keypost.transport.refusals import read_refusal
from keypost_services.delivery.compose import compose
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.serving import running
from support.clock import ManualClock
from support.envelopes import new_header, open_text, seal
from support.realm import SimulatedRealm
from support.refusing import refuse
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from keypost.errors import KeypostError
    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost_services.runtime.serving import RunningService
    from support.valkey import ValkeyServer

_numbers = itertools.count(1)


class SimulatedDirectory(directory_grpc.DirectoryServiceServicer, directory_grpc.KeyEventServiceServicer):
    """The directory's internal port; a test changes what it says.

    Attributes:
        realm: What is true.
        asked: How often each user was asked for.
        min_revisions: The revisions that were asked for at least.
        answer: Changes the answers of GetKeyInfo.
        away: Whether it refuses everything.
        hold: While cleared, GetKeyInfo waits.
        forgotten: How many watches are answered with EVENTS_FORGOTTEN.
        watching: Set while a watch stands.
        resumed_after: The ``after_sequence`` of each watch.
    """

    def __init__(self, realm: SimulatedRealm) -> None:
        self.realm = realm
        self.asked: Counter[str] = Counter()
        self.min_revisions: list[int] = []
        self.answer: Callable[[str, key_info_pb2.KeyInfo], key_info_pb2.KeyInfo] = lambda _, info: info
        self.trust: Callable[[], realm_trust_pb2.SignedRealmTrust] = realm.signed_trust
        self.away = False
        self.hold = asyncio.Event()
        self.hold.set()
        self.forgotten = 0
        self.watching = asyncio.Event()
        self.resumed_after: list[int | None] = []
        self.events: list[key_info_pb2.KeyEvent] = []
        self.refuse_watch = False
        self._changed = asyncio.Event()
        self._break = 0

    async def GetRealmTrust(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await self._serve(context)
        return directory_pb.GetRealmTrustResponse(realm_trust=self.trust())

    async def GetKeyInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._serve(context)
        self.asked[request.username] += 1
        self.min_revisions.append(request.min_revision)
        if request.username not in self.realm.users:
            await refuse(context, grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
        key_info = self.answer(request.username, self.realm.key_info(request.username))
        await self.hold.wait()
        return directory_pb.GetKeyInfoResponse(key_info=key_info)

    async def BatchGetKeyInfo(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "NOT_SIMULATED")

    async def WatchKeyEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        after = request.after_sequence if request.HasField("after_sequence") else None
        self.resumed_after.append(after)
        if self.refuse_watch:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        if self.forgotten and after is not None:
            self.forgotten -= 1
            await refuse(context, grpc.StatusCode.OUT_OF_RANGE, "EVENTS_FORGOTTEN")
        broken, sent = self._break, len(self.events) if after is None else after
        yield directory_pb.WatchKeyEventsResponse(newest_sequence=len(self.events))
        self.watching.set()
        while self._break == broken:
            self._changed.clear()
            if fresh := self.events[sent:]:
                sent = len(self.events)
                yield directory_pb.WatchKeyEventsResponse(events=fresh, newest_sequence=sent)
            await self._changed.wait()
        self.watching.clear()

    def tell(self, username: str, **changes: Any) -> None:
        """Send an event: the user's record is at its revision now."""
        event = key_info_pb2.KeyEvent(
            sequence=len(self.events) + 1,
            username=username,
            revision=self.realm.users[username].revision,
            kind=key_info_pb2.KEY_EVENT_KIND_RENEWED,
            create_time=self.realm.clock(),
        )
        for name, value in changes.items():
            setattr(event, name, value)
        self.events.append(event)
        self._changed.set()

    def break_watch(self) -> None:
        """End the watches that stand."""
        self._break += 1
        self._changed.set()

    async def _serve(self, context: Any) -> None:
        if self.away:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")


@dataclass
class Stack:
    """Everything around delivery, and ways to start it."""

    folder: Path
    clock: ManualClock
    realm: SimulatedRealm
    directory: SimulatedDirectory
    directory_port: int
    valkey: ValkeyServer
    exits: contextlib.AsyncExitStack
    channels: dict[int, grpc.aio.Channel] = field(default_factory=dict)

    def settings(self, **changes: Any) -> DeliverySettings:
        """Return the settings of a delivery replica."""
        own = self.folder / "tls" / "delivery"
        values: dict[str, Any] = {
            "realm": self.realm.realm,
            "tls_certificate": own / "public.pem",
            "tls_private_key": own / "public.key",
            "internal_tls_certificate": own / "internal.pem",
            "internal_tls_private_key": own / "internal.key",
            "internal_tls_root": self.folder / "tls" / "service-root.pem",
            "bundle": self.folder / "bundle.json",
            "directory": f"127.0.0.1:{self.directory_port}",
            "mailboxes_url": self.valkey.url,
            "log_level": "error",
            "drain_seconds": 5,
        }
        return DeliverySettings(**(values | changes))

    async def start(self, **changes: Any) -> RunningService[DeliverySettings]:
        """Start a replica that runs until the test ends."""
        service = await self.exits.enter_async_context(self.replica(**changes))
        async with asyncio.timeout(10):
            await self.directory.watching.wait()
        return service

    @contextlib.asynccontextmanager
    async def replica(self, **changes: Any) -> AsyncIterator[RunningService[DeliverySettings]]:
        """Run a replica as long as the context lasts."""
        async with running("delivery", self.settings(**changes), compose, clock=self.clock) as service:
            yield service

    async def device(self, pair: DeviceKeyPair, port: int, *settings: tuple[str, int]) -> SimulatedDevice:
        """Return a device that calls a replica at its public port, by a channel with these settings."""
        credentials = grpc.ssl_channel_credentials((self.folder / "tls" / "public-root.pem").read_bytes())
        options = (("grpc.use_local_subchannel_pool", 1), ("keypost.number", next(_numbers)), *settings)
        channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
        await self.exits.enter_async_context(channel)
        return SimulatedDevice(self, pair, DeliveryServiceStub(channel))


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[ValkeyServer]:
    with running_valkey(folder, appendonly="yes", appendfsync="always", maxmemory_policy="noeviction") as server:
        yield server


@contextlib.asynccontextmanager
async def open_stack(folder: Path, clock: ManualClock | None = None) -> AsyncIterator[Stack]:
    """Start everything that delivery needs."""
    clock = clock or ManualClock()
    realm = SimulatedRealm(clock=clock)
    issue(folder / "tls", realm.realm, ["delivery", "directory"])
    bundle = realm_trust_pb2.Bundle(
        realm=realm.realm, root_keys=[realm_trust_pb2.RootKey(public_key_der=realm.root.public_key_der)]
    )
    (folder / "bundle.json").write_text(json_format.MessageToJson(bundle))
    directory = SimulatedDirectory(realm)
    async with contextlib.AsyncExitStack() as exits:
        server, port = directory_server(directory, folder / "tls", "directory")
        await server.start()
        exits.push_async_callback(server.stop, None)
        valkey = exits.enter_context(_valkey(folder / "valkey"))
        yield Stack(folder, clock, realm, directory, port, valkey, exits)


def directory_server(directory: SimulatedDirectory, tls: Path, certificate_of: str) -> tuple[grpc.aio.Server, int]:
    """Return a directory on a port of mutual TLS, with the certificate of whichever service."""
    server = grpc.aio.server()
    directory_grpc.add_DirectoryServiceServicer_to_server(directory, server)
    directory_grpc.add_KeyEventServiceServicer_to_server(directory, server)
    own = tls / certificate_of
    pair = ((own / "internal.key").read_bytes(), (own / "internal.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (tls / "service-root.pem").read_bytes(), require_client_auth=True)
    return server, server.add_secure_port("127.0.0.1:0", credentials)


@dataclass
class SimulatedDevice:
    """A device with its own key, and the protocol's own functions to build what it sends."""

    stack: Stack
    pair: DeviceKeyPair
    stub: Any

    def metadata(self, **changes: Any) -> tuple[tuple[str, str], ...]:
        """Return the metadata with a token."""
        realm = self.stack.realm.realm
        token = mint_token(self.pair, audience_of(realm, "delivery"), self.stack.clock(), **changes)
        return (("authorization", f"Bearer {token}"),)

    async def send(self, envelope: envelope_pb2.Envelope) -> pb.SendResponse:
        """Call Send; a refusal is raised as the error that the SDK would raise."""
        try:
            request = pb.SendRequest(envelope=envelope)
            response: pb.SendResponse = await self.stub.Send(request, metadata=self.metadata(), timeout=20)
        except grpc.aio.AioRpcError as failure:
            raise refused(failure) from failure
        return response

    async def send_stream(self, *batches: pb.SendStreamRequest) -> list[list[pb.SendResult]]:
        """Call SendStream with all these batches, and return the results of each."""
        call = self.stub.SendStream(iter(batches), metadata=self.metadata(), timeout=20)
        try:
            return [list(response.results) async for response in call]
        except grpc.aio.AioRpcError as failure:
            raise refused(failure) from failure

    async def send_text(self, recipient: str, text: str = "hello") -> pb.SendResponse:
        """Send a message."""
        return await self.send(self.envelope(recipient, text))

    def envelope(
        self, recipient: str, text: str = "hello", *, changes: dict[str, Any] | None = None, **more: Any
    ) -> envelope_pb2.Envelope:
        """Return a well-made envelope to all good devices of a user.

        Args:
            recipient: The user.
            text: What it says.
            changes: As ``more``, for names in variables.
            more: ``signer`` (another pair), ``keys`` (to seal to), ``creator`` and ``create_time`` of the session,
                fields of the header (also in the extension where it has them), or with ``header_`` in front in the
                header alone.
        """
        changes = {**(changes or {}), **more}
        header = self._header(recipient, {k: v for k, v in changes.items() if k in Header.__dataclass_fields__})
        return seal(
            header,
            changes.get("signer") or self.pair,
            changes.get("keys") or self.recipient_keys(recipient),
            text,
            now=self.stack.clock(),
            header_alone={k.removeprefix("header_"): v for k, v in changes.items() if k.startswith("header_")},
            creator=changes.get("creator"),
            create_time=changes.get("create_time"),
        )

    def recipient_keys(self, recipient: str) -> list[Key]:
        """Return the good keys of a user, without the own one, ordered by device_id."""
        keys = self.stack.realm.key_record(recipient).good_keys(self.stack.clock())
        return sorted((key for key in keys if key.address != self.pair.address), key=lambda key: key.address)

    def _header(self, recipient: str, changes: dict[str, Any]) -> Header:
        users = self.stack.realm.users
        revisions = {
            "sender_revision": users[self.pair.address.username].revision,
            "recipient_revision": users[recipient].revision,
        }
        return new_header(self.stack.realm.realm, self.pair, recipient, self.stack.clock(), **(revisions | changes))

    def receive(self, max_unacknowledged: int = 0) -> SimulatedStream:
        """Open a stream."""
        return SimulatedStream(self.stub.Receive(metadata=self.metadata()), max_unacknowledged)


class SimulatedStream:
    """One open Receive call; every read is bounded."""

    def __init__(self, call: Any, max_unacknowledged: int) -> None:
        self.call = call
        self._max_unacknowledged = max_unacknowledged

    async def __aenter__(self) -> Self:
        await self.say(pb.ReceiveRequest(start=pb.Start(max_unacknowledged=self._max_unacknowledged)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

    async def say(self, request: pb.ReceiveRequest) -> None:
        """Say something; where the stream has ended meanwhile, reading tells why."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(request)

    async def next(self) -> pb.ReceiveResponse | None:
        """Return what the service says next, None at the end; a refusal is raised."""
        try:
            async with asyncio.timeout(15):
                response = await self.call.read()
        except grpc.aio.AioRpcError as failure:
            raise refused(failure) from failure
        return None if response is grpc.aio.EOF else response

    async def batch(self) -> list[pb.Delivery]:
        """Return the next envelopes; fails if something else comes."""
        response = await self.next()
        assert response is not None
        assert response.WhichOneof("kind") == "batch", response
        return list(response.batch.deliveries)

    async def queue_empty(self) -> None:
        """Take the word that the backlog is handed out; fails if something else comes."""
        response = await self.next()
        assert response is not None
        assert response.WhichOneof("kind") == "queue_empty", response

    async def backlog(self) -> list[pb.Delivery]:
        """Return everything that waits, unacknowledged, up to ``queue_empty``."""
        found: list[pb.Delivery] = []
        while (response := await self.next()) is not None and response.WhichOneof("kind") == "batch":
            found += response.batch.deliveries
        assert response is not None
        return found

    async def acknowledge(self, *delivery_ids: str) -> None:
        """Acknowledge."""
        await self.call.write(pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=delivery_ids)))

    async def finish(self) -> None:
        """Say nothing more, and wait for the end: then everything that was acknowledged is."""
        await self.call.done_writing()
        while await self.next() is not None:
            pass


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds that nothing announces; fails after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def refused(failure: grpc.aio.AioRpcError) -> KeypostError:
    """Return the error of a failed call, with the gRPC status beside it."""
    error = read_refusal(failure, "delivery").error
    error.metadata["code"] = str(failure.code().name)
    return error


def text_of(delivery: pb.Delivery, reader: DeviceKeyPair) -> str:
    """Return what a delivery says to its recipient."""
    return open_text(delivery.envelope, reader)
