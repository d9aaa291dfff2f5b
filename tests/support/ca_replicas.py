"""Several ``keypost-ca serve`` on one PostgreSQL, and devices and directories that take whichever answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceStub
from keypost.ca.v1.key_info_service_pb2_grpc import KeyInfoServiceStub
from keypost.clock import DAY, system_clock
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.realm_trust import Constants
from keypost.protocol.renewal import step_4_upload
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import WEAK
from keypost_services.ca.trust.realm_files import RealmFolder, create_realm
from keypost_services.embedded.certificates import issue
from keypost_services.embedded.processes import Process
from support import ca_statements
from support.internal_channel import internal_channel
from support.keys import crossed_keys
from support.service import settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.keys.v1.key_info_pb2 import KeyEvent

REALM = "example.org"
START_SECONDS = 60.0
OPEN = pb.SignIn(open=pb.OpenSignIn())
_TRY_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class Replica:
    """One process; it may be killed and started again.

    Attributes:
        name: What it is called.
        log: Where its log is.
    """

    def __init__(self, folder: Path, name: str, database: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._ready = folder / f"{name}.ready.json"
        files = folder / "ca"
        settings = {
            "REALM": REALM,
            "PUBLIC_LISTEN": "127.0.0.1:0",
            "INTERNAL_LISTEN": "127.0.0.1:0",
            "TLS_CERTIFICATE": str(files / "public.pem"),
            "TLS_PRIVATE_KEY": str(files / "public.key"),
            "INTERNAL_TLS_CERTIFICATE": str(files / "internal.pem"),
            "INTERNAL_TLS_PRIVATE_KEY": str(files / "internal.key"),
            "INTERNAL_TLS_ROOT": str(folder / "service-root.pem"),
            "DATABASE": database,
            "REALM_FOLDER": str(folder / "realm"),
            "SIGN_IN": "open",
            "READY_FILE": str(self._ready),
            "DRAIN_SECONDS": "5",
        }
        environment = {f"KEYPOST_CA_{key}": value for key, value in settings.items()}
        self._process = Process(name, [sys.executable, "-m", "keypost_services.ca", "serve"], self.log, environment)

    def start(self) -> None:
        """Start the process; ``wait`` for it."""
        self._ready.unlink(missing_ok=True)
        self._process.start()

    def wait(self) -> None:
        """Return when it serves."""
        self._process.wait_until(self._ready.exists, START_SECONDS)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._ready.unlink()
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait_stopped(START_SECONDS)

    def stop(self) -> bool:
        """End it in good order; return whether it did."""
        self._process.ask_to_stop()
        return self._process.wait_stopped(START_SECONDS)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    @contextlib.asynccontextmanager
    async def public(self) -> AsyncIterator[grpc.aio.Channel]:
        """Yield a channel to its public port; raises FileNotFoundError while it does not serve."""
        root = (self._folder / "public-root.pem").read_bytes()
        target = f"127.0.0.1:{self._ports()['public_port']}"
        async with grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root)) as channel:
            yield channel

    @contextlib.asynccontextmanager
    async def internal(self) -> AsyncIterator[grpc.aio.Channel]:
        """Yield a channel of a directory to its internal port; raises FileNotFoundError while it does not serve."""
        target = f"127.0.0.1:{self._ports()['internal_port']}"
        async with internal_channel(target, settings_for(self._folder, "directory"), "ca") as channel:
            yield channel

    async def database_states(self) -> AsyncIterator[int]:
        """Yield what its health says of the database, now and whenever that changes."""
        async with self.public() as channel:
            request = health_pb2.HealthCheckRequest(service="database")
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(request):
                yield answer.status

    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads(self._ready.read_text(encoding="utf-8"))
        return ports


@dataclass
class Progress:
    """Counts what was answered, and tells who waits for so much."""

    done: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def step(self) -> None:
        """Count one."""
        async with self._changed:
            self.done += 1
            self._changed.notify_all()

    async def reach(self, count: int) -> None:
        """Wait until so many are counted."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.done >= count)


@dataclass
class Devices:
    """Devices of users; each call goes to another replica, and to the next ones until one answers.

    Attributes:
        answered: The keys that the CA has recorded, as it answered, by user.
    """

    replicas: list[Replica]
    progress: Progress = field(default_factory=Progress)
    answered: dict[str, list[bytes]] = field(default_factory=dict)
    keys: Iterator[RSAPrivateKey] = field(default_factory=lambda: crossed_keys(WEAK))

    def __post_init__(self) -> None:
        self._turns = itertools.cycle(self.replicas)

    async def live(self, username: str, renewals: int) -> None:
        """Enrol a device and renew its key so many times."""
        begun = await self._call("BeginEnrollment", pb.BeginEnrollmentRequest(username=username, sign_in=OPEN))
        pair = self._new_pair(Address(username, begun.device_id))
        signed = sign_possession(ca_statements.key_request(REALM, pair, begun, {}), pair)
        await self._record(pair, "Enroll", pb.EnrollRequest(key_request=signed, sign_in=OPEN))
        for _ in range(renewals):
            pair = await self._renew(pair)

    async def _renew(self, old: DeviceKeyPair) -> DeviceKeyPair:
        username, device_id = old.address.username, old.address.device_id
        begun = await self._call("BeginRenewal", pb.BeginRenewalRequest(username=username, device_id=device_id))
        pair = self._new_pair(old.address)
        changes = {"kind": keys_pb.KEY_REQUEST_KIND_RENEW, "parent_fingerprint": old.fingerprint}
        request = ca_statements.key_request(REALM, pair, begun, changes)
        await self._record(pair, "Renew", pb.RenewRequest(key_request=step_4_upload(request, pair, old)))
        return pair

    async def _record(self, pair: DeviceKeyPair, method: str, request: Any) -> None:
        await self._call(method, request)
        self.answered.setdefault(pair.address.username, []).append(pair.fingerprint)
        await self.progress.step()

    def _new_pair(self, address: Address) -> DeviceKeyPair:
        private_key = next(self.keys)
        return DeviceKeyPair(address, WEAK, private_key, public_key_der(private_key))

    async def _call(self, method: str, request: Any) -> Any:
        while True:
            try:
                async with next(self._turns).public() as channel:
                    return await getattr(CertificateAuthorityServiceStub(channel), method)(request, timeout=30)
            except FileNotFoundError:
                pass
            except grpc.aio.AioRpcError as error:
                if error.code() not in _TRY_AGAIN:
                    raise
            # As long as a client waits before it tries again.
            await asyncio.sleep(0.1)


@dataclass
class Directory:
    """Watches key events as a directory does, and resumes at the next replica when a watch ends.

    Attributes:
        replicas: Where it watches, in this order.
        stays: Whether it stays with a replica that serves; else it goes on to the next one after every batch.
        events: All events, each seen once.
    """

    replicas: list[Replica]
    stays: bool
    events: list[KeyEvent] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)

    async def watch(self) -> None:
        """Watch without end; raises AssertionError for an event that is not the next one."""
        for replica in itertools.cycle(self.replicas):
            with contextlib.suppress(FileNotFoundError, grpc.aio.AioRpcError):
                async with replica.internal() as channel:
                    await self._watch(KeyInfoServiceStub(channel))
            await asyncio.sleep(0.05)

    async def _watch(self, stub: Any) -> None:
        request = info_pb.WatchKeyEventsRequest(after_sequence=len(self.events))
        async for response in stub.WatchKeyEvents(request):
            for event in response.events:
                assert event.sequence == len(self.events) + 1, "a gap, a repetition, or not in order"
                self.events.append(event)
                await self.progress.step()
            if response.events and not self.stays:
                return


def make_realm(folder: Path) -> None:
    """Make what the replicas need but the database."""
    issue(folder, REALM, ["ca", "directory"])
    constants = Constants(allowed_suites=(WEAK.id,))
    create_realm(RealmFolder(folder / "realm"), REALM, constants, 400 * DAY, system_clock())


@contextlib.contextmanager
def running_replicas(folder: Path, database: str, count: int) -> Iterator[list[Replica]]:
    """Run so many CA processes on one database, started together; all are gone afterwards."""
    make_realm(folder)
    replicas = [Replica(folder, f"ca{number}", database) for number in range(count)]
    try:
        for replica in replicas:
            replica.start()
        for replica in replicas:
            replica.wait()
        yield replicas
    finally:
        for replica in replicas:
            replica.stop()
