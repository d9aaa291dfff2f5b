"""All three services over TLS, for clients that are not ours and for services that are not who they say."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format

from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from keypost.directory.v1 import directory_service_pb2 as directory_pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from keypost.keys.v1 import realm_trust_pb2
from keypost.protocol.suites import STRONG
from keypost_services.delivery.compose import compose as compose_delivery
from keypost_services.delivery.mailboxes import Durability
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.compose import compose as compose_directory
from keypost_services.directory.settings import DirectorySettings
from keypost_services.embedded import certificates
from keypost_services.embedded.certificates import TlsRoot, service_names, write
from keypost_services.runtime.serving import RunningService, running
from support.ca_service import OPEN, REALM, CaUnderTest, open_ca
from support.directory import tls_settings
from support.plain_client import PlainDevice
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from cryptography.x509 import GeneralName

    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.valkey import ValkeyServer

SERVICES = ("ca", "directory", "delivery")


class ServiceRoot:
    """The root of the service certificates with its private key: it can issue what a real one would not."""

    def __init__(self, folder: Path, services: Sequence[str] = SERVICES) -> None:
        self.tls_root = TlsRoot("service root")
        certificates.issue(folder, REALM, list(services))
        (folder / "service-root.pem").write_bytes(self.tls_root.root_pem)
        for service in services:
            write(self.tls_root.issue(service, service_names(REALM, service)), folder / service / "internal")

    def channel(self, port: int | None, service: str, names: Sequence[GeneralName]) -> grpc.aio.Channel:
        """Return a channel to the internal port of a service, with a certificate of these names."""
        issued = self.tls_root.issue("caller", list(names))
        credentials = grpc.ssl_channel_credentials(
            self.tls_root.root_pem, issued.private_key_pem, issued.certificate_pem
        )
        options = [("grpc.ssl_target_name_override", f"{service}.keypost.internal")]
        return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


@dataclass
class PlainStack:
    """The services, the root of their certificates, and people who enrol."""

    folder: Path
    root: ServiceRoot
    ca: CaUnderTest
    directory: RunningService[DirectorySettings]
    delivery: RunningService[DeliverySettings]
    valkey: ValkeyServer
    exits: contextlib.AsyncExitStack

    @property
    def services(self) -> dict[str, RunningService[Any]]:
        return {"ca": self.ca.service, "directory": self.directory, "delivery": self.delivery}

    async def public(self, service: str) -> grpc.aio.Channel:
        """Return a channel to the public port of a service."""
        credentials = grpc.ssl_channel_credentials((self.folder / "public-root.pem").read_bytes())
        target = f"127.0.0.1:{self.services[service].public_port}"
        return await self.exits.enter_async_context(grpc.aio.secure_channel(target, credentials))

    async def internal(self, service: str, names: Sequence[GeneralName]) -> grpc.aio.Channel:
        """Return a channel to the internal port of a service, for whom the root names so."""
        port = self.services[service].internal_port
        return await self.exits.enter_async_context(self.root.channel(port, service, names))

    async def enroll(self, username: str) -> PlainDevice:
        """Enrol a device and return it."""
        return await self.device(await self.ca.enroll(username, OPEN, STRONG))

    async def device(self, pair: DeviceKeyPair) -> PlainDevice:
        """Return the device that has a key pair, with connections of its own."""
        delivery: Any = DeliveryServiceStub(await self.public("delivery"))
        directory: Any = DirectoryServiceStub(await self.public("directory"))
        device = PlainDevice(pair, REALM, self.ca.clock, self.ca.record, delivery, directory)

        async def find_record(wanted: str) -> KeyRecord:
            token = device.token(aud=f"{REALM}/directory")
            request = directory_pb.GetKeyInfoRequest(username=wanted)
            answer = await directory.GetKeyInfo(request, metadata=device.metadata(token), timeout=20)
            return self.ca.read(answer.key_info, wanted)

        device.find_record = find_record
        return device


def _bundle(folder: Path, ca: CaUnderTest) -> Path:
    root_keys = [realm_trust_pb2.RootKey(public_key_der=key) for key in ca.trust.root_keys]
    path = folder / "bundle.json"
    path.write_text(json_format.MessageToJson(realm_trust_pb2.Bundle(realm=REALM, root_keys=root_keys)))
    return path


@contextlib.asynccontextmanager
async def open_plain_stack(folder: Path, limits: str = "", **ca_settings: Any) -> AsyncIterator[PlainStack]:
    """Start the three services in this process, with a Valkey for all that is stored, cached or counted.

    Args:
        folder: Where everything lies.
        limits: How often callers may call, where it is not as usual.
        ca_settings: Settings of the CA.
    """
    root = ServiceRoot(folder)
    async with contextlib.AsyncExitStack() as exits:
        valkey = exits.enter_context(running_valkey(folder / "valkey", maxmemory_policy="noeviction"))
        counted: dict[str, Any] = {"limits_url": valkey.url, "limits": limits, "limits_timeout_seconds": 5}
        ca = await exits.enter_async_context(open_ca(folder, **counted, **ca_settings))
        usual: dict[str, Any] = {
            "bundle": _bundle(folder, ca),
            "log_level": "error",
            "drain_seconds": 1,
            **counted,
        }
        directory_settings = DirectorySettings(
            **tls_settings(folder, "directory"),
            **usual,
            internal_listen="127.0.0.1:0",
            ca=f"127.0.0.1:{ca.service.internal_port}",
            cache_url=valkey.url,
            trust_refresh_seconds=1,
        )
        directory = await exits.enter_async_context(
            running("directory", directory_settings, compose_directory, clock=ca.clock)
        )
        delivery_settings = DeliverySettings(
            **tls_settings(folder, "delivery"),
            **usual,
            internal_listen="127.0.0.1:0",
            directory=f"127.0.0.1:{directory.internal_port}",
            mailboxes_url=valkey.url,
            durability=Durability.MEMORY,
        )
        delivery = await exits.enter_async_context(
            running("delivery", delivery_settings, compose_delivery, clock=ca.clock)
        )
        yield PlainStack(folder, root, ca, directory, delivery, valkey, exits)


@pytest.fixture
async def plain_stack(tmp_path: Path) -> AsyncIterator[PlainStack]:
    async with open_plain_stack(tmp_path) as opened:
        yield opened
