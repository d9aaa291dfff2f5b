"""A CA that serves over TLS, for tests that call it as devices and directories do."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceStub
from keypost.ca.v1.key_info_service_pb2_grpc import KeyInfoServiceStub
from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.identifiers import Address
from keypost.protocol.key_info import KeyRecord, read_key_info
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.realm_trust import Constants, RealmTrust, read_realm_trust
from keypost.protocol.renewal import step_4_upload
from keypost.protocol.revocations import sign_reset_cancellation, sign_revocation
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, WEAK, Suite
from keypost.transport.retries import Retries
from keypost_services.ca import database_commands
from keypost_services.ca.administration.access import read_access
from keypost_services.ca.administration.client import open_client
from keypost_services.ca.compose import compose
from keypost_services.ca.settings import CaSettings
from keypost_services.ca.trust.realm_files import RealmFolder, create_realm, load_trust
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.serving import RunningService, running
from support import ca_statements
from support.clock import ManualClock
from support.elsewhere import forwarded
from support.internal_channel import internal_channel
from support.keys import KeyPool
from support.service import settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.ca.v1.ca_service_pb2_grpc import CertificateAuthorityServiceAsyncStub
    from keypost.ca.v1.key_info_service_pb2_grpc import KeyInfoServiceAsyncStub
    from keypost_services.ca.administration.access import Access
    from keypost_services.ca.administration.client import AdministrationClient

REALM = "example.org"
OPEN = pb.SignIn(open=pb.OpenSignIn())


@dataclass
class CaUnderTest:
    """A CA with a folder of its own, and devices that call it."""

    folder: Path
    trust: RealmTrust
    clock: ManualClock
    service: RunningService[CaSettings]
    stack: contextlib.AsyncExitStack
    output: io.StringIO = field(repr=False)
    keys: KeyPool = field(default_factory=KeyPool)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    async def devices(self) -> CertificateAuthorityServiceAsyncStub:
        """Return a stub on the public port."""
        root = (self.folder / "public-root.pem").read_bytes()
        target = f"127.0.0.1:{self.service.public_port}"
        channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root))
        return CertificateAuthorityServiceStub(await self.stack.enter_async_context(channel))

    async def directory(self, service: str = "directory") -> KeyInfoServiceAsyncStub:
        """Return a stub on the internal port, with the certificate of `service`."""
        target = f"127.0.0.1:{self.service.internal_port}"
        channel = internal_channel(target, settings_for(self.folder, service), "ca")
        return KeyInfoServiceStub(await self.stack.enter_async_context(channel))

    def access(self, name: str = "ada") -> Access:
        """Return how an administrator reaches the internal port."""
        certificate, private_key = (self.folder / f"administrators/{name}{suffix}" for suffix in (".pem", ".key"))
        target = f"127.0.0.1:{self.service.internal_port}"
        return read_access(target, certificate, private_key, self.folder / "service-root.pem")

    async def administrator(self, name: str = "ada") -> AdministrationClient:
        """Return the client of an administrator."""
        return await self.stack.enter_async_context(open_client(self.access(name), Retries(attempts=1)))

    def request(self, pair: DeviceKeyPair, begun: Any, **changes: Any) -> keys_pb.KeyRequest:
        return ca_statements.key_request(self.trust.realm, pair, begun, changes)

    def new_pair(self, address: Address, suite: Suite = WEAK) -> DeviceKeyPair:
        private_key = self.keys(suite)
        return DeviceKeyPair(address, suite, private_key, public_key_der(private_key))

    async def enroll_request(
        self, username: str, /, sign_in: pb.SignIn = OPEN, suite: Suite = WEAK, **changes: Any
    ) -> tuple[DeviceKeyPair, pb.EnrollRequest]:
        begin = pb.BeginEnrollmentRequest(username=username, sign_in=sign_in)
        begun = await (await self.devices()).BeginEnrollment(begin)
        pair = self.new_pair(Address(username, begun.device_id), suite)
        signed = sign_possession(self.request(pair, begun, **changes), pair)
        return pair, pb.EnrollRequest(key_request=signed, sign_in=sign_in)

    async def renew_request(
        self, old: DeviceKeyPair, suite: Suite | None = None, **changes: Any
    ) -> tuple[DeviceKeyPair, pb.RenewRequest]:
        begin = pb.BeginRenewalRequest(username=old.address.username, device_id=old.address.device_id)
        begun = await (await self.devices()).BeginRenewal(begin)
        pair = self.new_pair(old.address, suite or old.suite)
        usual = {"kind": keys_pb.KEY_REQUEST_KIND_RENEW, "parent_fingerprint": old.fingerprint}
        request = self.request(pair, begun, **(usual | changes))
        return pair, pb.RenewRequest(key_request=step_4_upload(request, pair, old))

    async def approve_request(
        self, parent: DeviceKeyPair, suite: Suite = WEAK, **changes: Any
    ) -> tuple[DeviceKeyPair, pb.ApproveRequest]:
        begin = pb.BeginApprovalRequest(username=parent.address.username)
        begun = await (await self.devices()).BeginApproval(begin)
        pair = self.new_pair(Address(parent.address.username, begun.device_id), suite)
        usual = {"kind": keys_pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": parent.fingerprint}
        request = self.request(pair, begun, **(usual | changes))
        return pair, pb.ApproveRequest(key_request=step_4_upload(request, pair, parent))

    async def revoke_request(
        self, key: DeviceKeyPair, signer: DeviceKeyPair | None = None, /, **changes: Any
    ) -> pb.RevokeRequest:
        """Return the withdrawal of a key as lost, signed by itself or another, with `changes` to its fields."""
        revision = await self.next_revision(key.address.username)
        statement = ca_statements.revocation(self.trust.realm, key, revision, changes)
        return pb.RevokeRequest(revocation=sign_revocation(statement, signer or key))

    async def cancel_request(self, signer: DeviceKeyPair, **changes: Any) -> pb.CancelResetRequest:
        revision = await self.next_revision(signer.address.username)
        statement = ca_statements.cancellation(self.trust.realm, signer, revision, changes)
        return pb.CancelResetRequest(cancellation=sign_reset_cancellation(statement, signer))

    async def next_revision(self, username: str) -> int:
        """Return the revision at which the next change of a user takes effect, as anybody may ask."""
        begun = await (await self.devices()).BeginApproval(pb.BeginApprovalRequest(username=username))
        return begun.next_revision

    async def approve(self, parent: DeviceKeyPair, suite: Suite = STRONG) -> DeviceKeyPair:
        pair, request = await self.approve_request(parent, suite)
        await (await self.devices()).Approve(request)
        return pair

    async def revoke(self, key: DeviceKeyPair, signer: DeviceKeyPair | None = None, /, **changes: Any) -> KeyRecord:
        answer = await (await self.devices()).Revoke(await self.revoke_request(key, signer, **changes))
        return self.read(answer.key_info, key.address.username)

    async def request_reset(self, username: str, sign_in: pb.SignIn = OPEN) -> pb.RequestResetResponse:
        return await (await self.devices()).RequestReset(pb.RequestResetRequest(username=username, sign_in=sign_in))

    async def enroll(self, username: str, sign_in: pb.SignIn = OPEN, suite: Suite = WEAK) -> DeviceKeyPair:
        pair, request = await self.enroll_request(username, sign_in, suite)
        await (await self.devices()).Enroll(request)
        return pair

    async def renew(self, old: DeviceKeyPair) -> DeviceKeyPair:
        pair, request = await self.renew_request(old)
        await (await self.devices()).Renew(request)
        return pair

    async def code(self, username: str, lifetime: str = "1d") -> pb.SignIn:
        """Return a one-time code, made as its operator makes it."""
        database = self.service.runtime.settings.database
        arguments = (self.folder / "realm", database, username, lifetime, self.clock())
        made = await asyncio.to_thread(database_commands.make_code, *arguments)
        return pb.SignIn(one_time_code=made.code)

    async def record(self, username: str) -> KeyRecord:
        """Return a user's record, as the directory gets it and a client believes it."""
        answer = await (await self.directory()).GetKeyInfo(info_pb.GetKeyInfoRequest(username=username))
        return self.read(answer.key_info, username)

    async def trust_of_clients(self) -> RealmTrust:
        answer = await (await self.devices()).GetRealmTrust(pb.GetRealmTrustRequest())
        return read_realm_trust(answer.realm_trust, realm=REALM, root_keys=self.trust.root_keys, now=self.clock())

    def read(self, key_info: keys_pb.KeyInfo, username: str) -> KeyRecord:
        """Return the record as a client believes it."""
        return read_key_info(key_info, trust=self.trust, username=username, now=self.clock())


def ca_settings(folder: Path, **changes: Any) -> CaSettings:
    common = settings_for(folder, "ca").model_dump()
    own = {"database": f"sqlite:///{folder / 'ca.db'}", "realm_folder": folder / "realm", "sign_in": "open"}
    return CaSettings(**{**common, **own, **changes})


@contextlib.asynccontextmanager
async def open_ca(
    folder: Path, *, validity: int = 400 * DAY, constants: Constants | None = None, **changes: Any
) -> AsyncIterator[CaUnderTest]:
    """Serve the CA of a folder; what it needs is made the first time."""
    clock, output = ManualClock(), io.StringIO()
    files = RealmFolder(folder / "realm")
    if not (folder / "ca").exists():
        issue(folder, REALM, ["ca", "directory", "delivery"], administrators=["ada", "grace"])
    if not files.path.exists():
        constants = constants or Constants(allowed_suites=(STRONG.id, WEAK.id))
        create_realm(files, REALM, constants, validity, clock())
    log = make_logger("ca", "debug", "json", output)
    async with contextlib.AsyncExitStack() as stack:
        settings = ca_settings(folder, **changes)
        service = await stack.enter_async_context(running("ca", settings, compose, clock=clock, log=log))
        yield CaUnderTest(folder, load_trust(files, clock()), clock, service, stack, output)


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[CaUnderTest]:
    """A CA with open sign-in, both suites allowed."""
    async with open_ca(tmp_path) as opened:
        yield opened


@contextlib.asynccontextmanager
async def elsewhere(ca: CaUnderTest, address: str) -> AsyncIterator[Any]:
    """Yield a stub of the CA whose calls come from another network address."""
    credentials = grpc.ssl_channel_credentials((ca.folder / "public-root.pem").read_bytes())
    async with (
        forwarded(ca.service.public_port, address) as port,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel,
    ):
        yield CertificateAuthorityServiceStub(channel)
