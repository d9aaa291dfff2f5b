from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.embedded import certificates
from keypost_services.embedded.certificates import TlsRoot, administrator_names, service_names, write
from keypost_services.runtime.auth import CallerKind, current_call, current_caller
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.identity import public_key_of
from keypost_services.runtime.method_table import administrators, anyone, services
from support.internal_channel import internal_channel
from support.service import REALM, SEND, error_info, serving, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from cryptography.x509 import GeneralName

    from keypost_services.runtime.method_table import Callers
    from support.service import ServiceUnderTest

HEALTH = {"/grpc.health.v1.Health/Check": services("directory")}
FOR_DIRECTORY = {SEND: services("directory")}
FOR_ADMINISTRATORS = {SEND: administrators()}


class Root:
    """A service root whose private key the test keeps: it can issue what a real one would not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tls_root = TlsRoot("service root")
        certificates.issue(folder, REALM, ["delivery"])
        (folder / "service-root.pem").write_bytes(self.tls_root.root_pem)
        write(self.tls_root.issue("delivery", service_names(REALM, "delivery")), folder / "delivery/internal")

    async def call(self, service: ServiceUnderTest, names: list[GeneralName], tls_root: TlsRoot | None = None) -> Any:
        issued = (tls_root or self.tls_root).issue("caller", names)
        async with service.internal_channel(issued.certificate_pem, issued.private_key_pem) as channel:
            return await delivery_service_pb2_grpc.DeliveryServiceStub(channel).Send(pb.SendRequest(), timeout=10)


@contextlib.asynccontextmanager
async def internal_service(
    folder: Path, methods: Mapping[str, Callers] = FOR_DIRECTORY, **changes: Any
) -> AsyncIterator[tuple[Root, ServiceUnderTest]]:
    root = Root(folder)
    async with serving(folder, methods=methods, **changes) as service, asyncio.timeout(20):
        yield root, service


async def test_a_service_is_known_by_its_certificate(tmp_path: Path) -> None:
    seen = []

    async def look(_request: Any, _context: Any) -> pb.SendResponse:
        seen.append(current_caller())
        return pb.SendResponse()

    async with internal_service(tmp_path) as (root, service):
        service.servicer.on_send = look
        await root.call(service, list(service_names(REALM, "directory")))
    assert [caller.service for caller in seen] == ["directory"]


async def test_an_administrator_is_known_by_name_and_key(tmp_path: Path) -> None:
    seen = []

    async def look(_request: Any, _context: Any) -> pb.SendResponse:
        seen.append(current_call())
        return pb.SendResponse()

    async with internal_service(tmp_path, FOR_ADMINISTRATORS) as (root, service):
        service.servicer.on_send = look
        issued = root.tls_root.issue("ada", administrator_names(REALM, "ada"), serves=False)
        async with service.internal_channel(issued.certificate_pem, issued.private_key_pem) as channel:
            stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
            await stub.Send(pb.SendRequest(), metadata=(("x-request-id", "lost-phone-7"),), timeout=10)
        (line,) = service.events("call")
    (call,) = seen
    assert (call.caller.kind, call.caller.administrator) == (CallerKind.ADMINISTRATOR, "ada")
    assert call.caller.public_key_der == public_key_of(issued.certificate_pem)
    assert call.caller.service is None
    assert call.request_id == "lost-phone-7"
    assert (line["caller"], line["caller_kind"]) == ("ada", "administrator")


async def test_a_gateway_says_who_calls_and_nobody_says_it_of_who_shows_a_certificate(tmp_path: Path) -> None:
    """The audit log and the log take it from the same place."""
    seen = []

    async def look(_request: Any, _context: Any) -> pb.SendResponse:
        seen.append(current_caller().peer)
        return pb.SendResponse()

    said = (("x-forwarded-for", "198.51.100.1, 203.0.113.1"),)
    async with internal_service(tmp_path, {SEND: anyone()}, trusted_proxies="127.0.0.1") as (root, service):
        service.servicer.on_send = look
        async with service.public_channel() as channel:
            await delivery_service_pb2_grpc.DeliveryServiceStub(channel).Send(pb.SendRequest(), metadata=said)
        issued = root.tls_root.issue("ada", administrator_names(REALM, "ada"), serves=False)
        async with service.internal_channel(issued.certificate_pem, issued.private_key_pem) as channel:
            await delivery_service_pb2_grpc.DeliveryServiceStub(channel).Send(pb.SendRequest(), metadata=said)
        lines = service.events("call")
    assert seen[0] == "ipv4:203.0.113.1:0"
    assert seen[1].startswith("ipv4:127.0.0.1:")
    assert [line["peer"] for line in lines] == seen


async def test_who_is_no_administrator_is_refused_where_administrators_call(tmp_path: Path) -> None:
    async with internal_service(tmp_path, FOR_ADMINISTRATORS) as (root, service):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await root.call(service, list(service_names(REALM, "directory")))
        assert error_info(caught.value).reason == "METHOD_NOT_ADMITTED"
        async with service.public_channel() as channel:
            stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Send(pb.SendRequest(), metadata=(("authorization", "Bearer x"),), timeout=10)
        assert error_info(caught.value).reason == "METHOD_NOT_ADMITTED"


async def test_an_administrator_is_refused_where_services_call(tmp_path: Path) -> None:
    async with internal_service(tmp_path) as (root, service):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await root.call(service, list(administrator_names(REALM, "directory")))
        assert error_info(caught.value).reason == "METHOD_NOT_ADMITTED"


async def test_a_certificate_of_another_root_does_not_get_through_the_handshake(tmp_path: Path) -> None:
    async with internal_service(tmp_path) as (root, service):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await root.call(service, list(service_names(REALM, "directory")), TlsRoot("foreign root"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not service.events("call")


async def test_without_a_certificate_nobody_gets_in(tmp_path: Path) -> None:
    async with internal_service(tmp_path) as (root, service):
        credentials = grpc.ssl_channel_credentials(root.tls_root.root_pem)
        options = [("grpc.ssl_target_name_override", "delivery.keypost.internal")]
        target = f"127.0.0.1:{service.running.internal_port}"
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await delivery_service_pb2_grpc.DeliveryServiceStub(channel).Send(pb.SendRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not service.events("call")


async def test_what_is_for_services_is_refused_on_the_public_port(tmp_path: Path) -> None:
    async with internal_service(tmp_path) as (_, service), service.public_channel() as channel:
        stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Send(pb.SendRequest(), metadata=(("authorization", "Bearer x"),), timeout=10)
        assert error_info(caught.value).reason == "METHOD_NOT_ADMITTED"


async def test_a_channel_between_services_accepts_only_the_service_it_wants(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root.tls_root.issue("directory", service_names(REALM, "directory")), tmp_path / "caller")
    files: dict[str, Any] = {
        "internal_tls_certificate": tmp_path / "caller.pem",
        "internal_tls_private_key": tmp_path / "caller.key",
    }
    settings = settings_for(tmp_path, **files)
    async with serving(tmp_path, methods=HEALTH) as service, asyncio.timeout(20):
        target = f"127.0.0.1:{service.running.internal_port}"
        async with internal_channel(target, settings, "delivery") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with internal_channel(target, settings, "ca") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_service_does_not_start_with_a_certificate_of_another(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root.tls_root.issue("delivery", service_names(REALM, "ca")), tmp_path / "delivery/internal")
    with pytest.raises(StartError, match="certificate of ca, and this is delivery"):
        async with serving(tmp_path):
            pass


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "delivery"
    async with serving(tmp_path) as service, asyncio.timeout(20):
        renewed = TlsRoot("new public root")
        async with service.public_channel() as channel:
            await health(channel)
        (folder / "public.key").write_text("half a file")
        async with service.public_channel() as channel:
            await health(channel)
        assert service.events("certificate not renewed")
        write(renewed.issue("delivery", certificates.LOOPBACK), folder / "public")
        (tmp_path / "public-root.pem").write_bytes(renewed.root_pem)
        async with service.public_channel() as channel:
            await health(channel)
        assert service.events("certificate renewed")


async def health(channel: grpc.aio.Channel) -> None:
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
