"""A CA that answers as the test says, over real TLS, and a directory that serves in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import json_format
from grpc import StatusCode
from prometheus_client import CollectorRegistry

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import ca_service_pb2_grpc as ca_grpc
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.ca.v1 import key_info_service_pb2_grpc as info_grpc
from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub, KeyEventServiceStub
from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from keypost.protocol.tokens import audience_of, mint_token
from keypost_services.directory.compose import compose
from keypost_services.directory.look_up.verifier import Verifier
from keypost_services.directory.metrics import Metrics
from keypost_services.directory.settings import DirectorySettings
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.config import ServiceSettings
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.serving import Parts, RunningService, Runtime, running
from support.internal_channel import internal_channel
from support.realm import REALM, SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceAsyncStub, KeyEventServiceAsyncStub
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.suites import Suite
    from support.clock import ManualClock

SERVICES = ("ca", "directory", "delivery")


@dataclass
class FixedTrust:
    """The realm's trust as it was made for the test; counts how often it was to be fetched anew."""

    trust: RealmTrust
    refreshed: int = 0

    def current(self) -> RealmTrust:
        return self.trust

    async def refresh(self) -> None:
        self.refreshed += 1

    def allow(self, *suites: Suite) -> None:
        constants = replace(self.trust.constants, allowed_suites=tuple(suite.id for suite in suites))
        self.trust = replace(self.trust, constants=constants)


class SimulatedCa(info_grpc.KeyInfoServiceServicer, ca_grpc.CertificateAuthorityServiceServicer):
    """Serves the records of a SimulatedRealm, or whatever the test puts in their place.

    Attributes:
        answers: Key info by username that is served instead of the realm's; None: there is no such user.
        questions: The usernames of each question that came.
        watches: The after_sequence of each watch that came.
        gate: While it is not set, questions wait.
        trust: The trust statement that is served.
    """

    def __init__(self, realm: SimulatedRealm) -> None:
        self.realm = realm
        self.answers: dict[str, key_info_pb2.KeyInfo | None] = {}
        self.questions: list[list[str]] = []
        self.watches: list[int | None] = []
        self.trust_questions = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.trust: realm_trust_pb2.SignedRealmTrust = realm.signed_trust()
        self.events: list[key_info_pb2.KeyEvent] = []
        self.refuses_watches = False
        self._changed = asyncio.Event()
        self._generation = 0

    def announce(self, username: str, *, skip: int = 0, revision: int | None = None) -> key_info_pb2.KeyEvent:
        """Tell those who watch that the user's record has changed; ``skip`` sequences are left out."""
        newest = self.events[-1].sequence if self.events else 0
        event = key_info_pb2.KeyEvent(
            sequence=newest + 1 + skip,
            username=username,
            revision=self.realm.users[username].revision if revision is None else revision,
            kind=key_info_pb2.KEY_EVENT_KIND_RENEWED,
        )
        self.events.append(event)
        self._wake()
        return event

    def break_watches(self) -> None:
        """End all watches with a failure."""
        self._generation += 1
        self._wake()

    async def GetRealmTrust(self, _request: Any, _context: Any) -> ca_pb.GetRealmTrustResponse:  # noqa: N802
        self.trust_questions += 1
        return ca_pb.GetRealmTrustResponse(realm_trust=self.trust)

    async def GetKeyInfo(self, request: Any, _context: Any) -> info_pb.GetKeyInfoResponse:  # noqa: N802
        answers = await self._answer([request.username])
        if request.username not in answers:
            raise ServiceError(StatusCode.NOT_FOUND, "USER_NOT_FOUND", "there is no such user")
        return info_pb.GetKeyInfoResponse(key_info=answers[request.username])

    async def BatchGetKeyInfo(self, request: Any, _context: Any) -> info_pb.BatchGetKeyInfoResponse:  # noqa: N802
        return info_pb.BatchGetKeyInfoResponse(key_info=await self._answer(list(request.usernames)))

    async def WatchKeyEvents(  # noqa: N802
        self, request: Any, _context: Any
    ) -> AsyncIterator[info_pb.WatchKeyEventsResponse]:
        after = request.after_sequence if request.HasField("after_sequence") else None
        self.watches.append(after)
        newest = self.events[-1].sequence if self.events else 0
        if after is not None and after > newest:
            raise ServiceError(StatusCode.OUT_OF_RANGE, "SEQUENCE_AHEAD", "not that far")
        generation, sent = self._generation, newest if after is None else after
        while generation == self._generation and not self.refuses_watches:
            events = [event for event in self.events if event.sequence > sent][:256]
            sent = events[-1].sequence if events else sent
            newest = self.events[-1].sequence if self.events else 0
            yield info_pb.WatchKeyEventsResponse(events=events, newest_sequence=newest)
            while sent == (self.events[-1].sequence if self.events else 0) and generation == self._generation:
                await self._changed.wait()
        raise ServiceError(StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the test broke the watch")

    async def _answer(self, usernames: list[str]) -> dict[str, key_info_pb2.KeyInfo]:
        self.questions.append(usernames)
        # What is true when the question comes is the answer, however long it takes.
        answers = {name: self._key_info(name) for name in usernames}
        self.asked.set()
        await self.gate.wait()
        return {name: key_info for name, key_info in answers.items() if key_info is not None}

    def _key_info(self, username: str) -> key_info_pb2.KeyInfo | None:
        if username in self.answers:
            return self.answers[username]
        return self.realm.key_info(username) if username in self.realm.users else None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class CaHost:
    """Serves a SimulatedCa; it may be stopped and started again on the same port."""

    ca: SimulatedCa
    folder: Path
    port: int = 0
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def start(self) -> None:
        settings = service_settings(self.folder, "ca", internal_listen=f"127.0.0.1:{self.port}", drain_seconds=0)
        log = make_logger("ca", "error", "json", io.StringIO())
        service = await self._stack.enter_async_context(running("ca", settings, self._compose, log=log))
        assert service.internal_port is not None
        self.port = service.internal_port

    async def stop(self) -> None:
        await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def _compose(self, _runtime: Runtime) -> AsyncIterator[Parts]:
        yield Parts(
            services=[
                ("keypost.ca.v1.KeyInfoService", info_grpc.add_KeyInfoServiceServicer_to_server, self.ca),
                (
                    "keypost.ca.v1.CertificateAuthorityService",
                    ca_grpc.add_CertificateAuthorityServiceServicer_to_server,
                    self.ca,
                ),
            ]
        )


@dataclass
class DirectoryUnderTest:
    """A directory that serves, with everything around it in the test's hand."""

    folder: Path
    clock: ManualClock
    realm: SimulatedRealm
    ca: SimulatedCa
    host: CaHost
    service: RunningService[DirectorySettings]
    output: io.StringIO
    channels: contextlib.AsyncExitStack

    @property
    def health(self) -> Any:
        return self.service.runtime.health

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def metric(self, name: str, **labels: str) -> float:
        return self.service.runtime.metrics.get_sample_value(f"keypost_directory_{name}", labels) or 0.0

    def degraded(self, part: str) -> float | None:
        """Return what the metrics say of a part."""
        return self.service.runtime.metrics.get_sample_value("keypost_degraded", {"part": part})

    async def until_state(self, part: str, *, degraded: bool) -> None:
        """Return once the health of ``part`` is as wanted."""
        async for _ in self.health.changes(part):
            if (part in self.health.degraded) == degraded:
                return

    async def delivery(self) -> DirectoryServiceAsyncStub:
        """Return a stub of the internal port, as the delivery service calls."""
        return DirectoryServiceStub(await self._internal("delivery"))

    async def events(self) -> KeyEventServiceAsyncStub:
        return KeyEventServiceStub(await self._internal("delivery"))

    async def public(self) -> DirectoryServiceAsyncStub:
        """Return a stub of the public port; calls of devices carry ``token_metadata``."""
        credentials = grpc.ssl_channel_credentials((self.folder / "public-root.pem").read_bytes())
        channel = grpc.aio.secure_channel(f"127.0.0.1:{self.service.public_port}", credentials)
        return DirectoryServiceStub(await self.channels.enter_async_context(channel))

    def token_metadata(self, pair: DeviceKeyPair) -> tuple[tuple[str, str], ...]:
        token = mint_token(pair, audience_of(REALM, "directory"), self.clock())
        return (("authorization", f"Bearer {token}"),)

    async def act_on(self, username: str, **changes: Any) -> None:
        """Announce a change, and return once the directory has acted upon it and passed it on."""
        watch: Any = (await self.events()).WatchKeyEvents(pb.WatchKeyEventsRequest())
        first = await watch.read()
        event = self.ca.announce(username, **changes)
        while first.newest_sequence < event.sequence:
            first = await watch.read()
        watch.cancel()

    async def revision(self, username: str, **request: Any) -> int:
        """Look up one user as delivery does and return the revision that is served."""
        stub = await self.delivery()
        response = await stub.GetKeyInfo(pb.GetKeyInfoRequest(username=username, **request))
        return key_info_pb2.UserKeys.FromString(response.key_info.record.user_keys).revision

    async def _internal(self, caller: str) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.service.internal_port}"
        channel = internal_channel(target, service_settings(self.folder, caller), "directory")
        return await self.channels.enter_async_context(channel)


def service_settings(folder: Path, service: str, **changes: Any) -> ServiceSettings:
    return ServiceSettings(**tls_settings(folder, service), **{"public_listen": "127.0.0.1:0", **changes})


def tls_settings(folder: Path, service: str) -> dict[str, Any]:
    return {
        "realm": REALM,
        "tls_certificate": folder / service / "public.pem",
        "tls_private_key": folder / service / "public.key",
        "internal_tls_certificate": folder / service / "internal.pem",
        "internal_tls_private_key": folder / service / "internal.key",
        "internal_tls_root": folder / "service-root.pem",
    }


def write_bundle(folder: Path, realm: SimulatedRealm) -> Path:
    root_keys = [realm_trust_pb2.RootKey(public_key_der=realm.root.public_key_der)]
    path = folder / "bundle.json"
    path.write_text(json_format.MessageToJson(realm_trust_pb2.Bundle(realm=realm.realm, root_keys=root_keys)))
    return path


def directory_settings(folder: Path, realm: SimulatedRealm, ca_port: int, cache: str, **changes: Any) -> Any:
    values: dict[str, Any] = {
        **tls_settings(folder, "directory"),
        "internal_listen": "127.0.0.1:0",
        "ca": f"127.0.0.1:{ca_port}",
        "cache_url": cache,
        "bundle": write_bundle(folder, realm),
        "drain_seconds": 1,
        "cache_retry_seconds": 0.01,
        "ca_retry_seconds": 0.01,
    }
    return DirectorySettings(**{**values, **changes})


@contextlib.asynccontextmanager
async def running_ca(folder: Path, realm: SimulatedRealm) -> AsyncIterator[CaHost]:
    if not (folder / "ca").exists():
        issue(folder, REALM, SERVICES)
    host = CaHost(SimulatedCa(realm), folder)  # type: ignore[abstract]  # devices' methods are not called
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


@contextlib.asynccontextmanager
async def running_directory(
    host: CaHost, clock: ManualClock, cache: str, **changes: Any
) -> AsyncIterator[DirectoryUnderTest]:
    """Serve a directory in front of ``host``, with ``changes`` to its settings."""
    settings = directory_settings(host.folder, host.ca.realm, host.port, cache, **changes)
    output = io.StringIO()
    log = make_logger("directory", "info", "json", output)
    async with (
        running("directory", settings, compose, clock=clock, log=log) as service,
        contextlib.AsyncExitStack() as channels,
    ):
        yield DirectoryUnderTest(host.folder, clock, host.ca.realm, host.ca, host, service, output, channels)


class Ears:
    """Remembers what a part said of itself."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []

    def __call__(self, why: str | None) -> None:
        self.heard.append(why)


def new_metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def new_verifier(realm: SimulatedRealm, clock: ManualClock, metrics: Metrics | None = None) -> Verifier:
    return Verifier(FixedTrust(realm.trust()), clock, silent_log(), metrics or new_metrics())


def silent_log() -> Any:
    return make_logger("directory", "debug", "json", io.StringIO())
