"""A service of a test: real ports, real TLS, a servicer that the test fills in."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.config import ServiceSettings
from keypost_services.runtime.limits.table import METHOD_LIMITS
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.method_table import METHODS
from keypost_services.runtime.serving import Parts, RunningService, Runtime, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from keypost_services.runtime.auth import DeviceKeys
    from keypost_services.runtime.limits.table import MethodLimits
    from keypost_services.runtime.method_table import Callers

REALM = "example.org"
SEND = "/keypost.delivery.v1.DeliveryService/Send"
RECEIVE = "/keypost.delivery.v1.DeliveryService/Receive"
SERVICE = "keypost.delivery.v1.DeliveryService"


class Servicer(delivery_service_pb2_grpc.DeliveryServiceServicer):
    """Does what the test says."""

    def __init__(self) -> None:
        self.on_send: Callable[[pb.SendRequest, Any], Awaitable[pb.SendResponse]] = _store
        self.on_receive: Callable[[Any, Any], AsyncIterator[pb.ReceiveResponse]] = _echo

    async def Send(self, request: pb.SendRequest, context: Any) -> pb.SendResponse:  # noqa: N802
        return await self.on_send(request, context)

    async def Receive(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.ReceiveResponse]:  # noqa: N802
        async with contextlib.aclosing(self.on_receive(request_iterator, context)) as responses:  # type: ignore[type-var]
            async for response in responses:
                yield response

    def SendStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    async def ListMailboxes(self, request: Any, context: Any) -> pb.ListMailboxesResponse:  # noqa: N802
        raise NotImplementedError


async def _store(_request: pb.SendRequest, _context: Any) -> pb.SendResponse:
    return pb.SendResponse(stored=pb.Stored(accept_time=1))


async def _echo(requests: Any, _context: Any) -> AsyncIterator[pb.ReceiveResponse]:
    async for _ in requests:
        yield pb.ReceiveResponse(queue_empty=pb.QueueEmpty())


@dataclass
class ServiceUnderTest:
    """A service that serves, and what it has logged."""

    folder: Path
    running: RunningService
    servicer: Servicer
    output: io.StringIO = field(repr=False)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def public_channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials((self.folder / "public-root.pem").read_bytes())
        return grpc.aio.secure_channel(f"127.0.0.1:{self.running.public_port}", credentials)

    def internal_channel(
        self, certificate_pem: bytes, private_key_pem: bytes, *, root_pem: bytes | None = None, name: str = "delivery"
    ) -> grpc.aio.Channel:
        root = root_pem or (self.folder / "service-root.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(root, private_key_pem, certificate_pem)
        options = [("grpc.ssl_target_name_override", f"{name}.keypost.internal")]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.running.internal_port}", credentials, options=options)


def settings_for(folder: Path, service: str = "delivery", **changes: Any) -> ServiceSettings:
    values: dict[str, Any] = {
        "realm": REALM,
        "public_listen": "127.0.0.1:0",
        "internal_listen": "127.0.0.1:0",
        "tls_certificate": folder / service / "public.pem",
        "tls_private_key": folder / service / "public.key",
        "internal_tls_certificate": folder / service / "internal.pem",
        "internal_tls_private_key": folder / service / "internal.key",
        "internal_tls_root": folder / "service-root.pem",
        "drain_seconds": 5,
    }
    return ServiceSettings(**{**values, **changes})


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *,
    device_keys: DeviceKeys | None = None,
    methods: Mapping[str, Callers] = METHODS,
    method_limits: Mapping[str, MethodLimits] = METHOD_LIMITS,
    parts: Mapping[str, Any] | None = None,
    clock: Callable[[], int] | None = None,
    **changes: Any,
) -> AsyncIterator[ServiceUnderTest]:
    """Serve the delivery service's protos with a servicer of the test."""
    if not (folder / "delivery").exists():
        issue(folder, REALM, ["ca", "directory", "delivery"])
    servicer, output = Servicer(), io.StringIO()
    add = delivery_service_pb2_grpc.add_DeliveryServiceServicer_to_server

    @contextlib.asynccontextmanager
    async def compose(_runtime: Runtime) -> AsyncIterator[Parts]:
        yield Parts(**{"services": [(SERVICE, add, servicer)], "device_keys": device_keys, **(parts or {})})

    options: dict[str, Any] = {"clock": clock} if clock else {}
    log = make_logger("delivery", "debug", "json", output)
    settings = settings_for(folder, **changes)
    options |= {"methods": methods, "method_limits": method_limits}
    async with running("delivery", settings, compose, log=log, **options) as service:
        yield ServiceUnderTest(folder, service, servicer, output)


def error_info(error: grpc.aio.AioRpcError) -> Any:
    """Return the ErrorInfo of a failure, after checking that it is the only one and small."""
    raw = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    assert len(raw) == 1
    assert isinstance(raw[0], bytes)
    assert len(raw[0]) * 4 // 3 < 4096
    status = status_pb2.Status.FromString(raw[0])
    assert status.code == error.code().value[0]
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "keypost"
    return info


def retry_after_ms(error: grpc.aio.AioRpcError) -> int | None:
    """Return the delay of the RetryInfo of a failure."""
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    for detail in status_pb2.Status.FromString(raw).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return int(retry.retry_delay.ToMilliseconds())
    return None
