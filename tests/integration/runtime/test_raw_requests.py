"""What no gRPC library sends, but anybody can."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.runtime.method_table import anyone
from support.service import SEND, serving

if TYPE_CHECKING:
    from pathlib import Path

    from support.service import ServiceUnderTest

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = bytes(5)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header that enters no table (RFC 7541, section 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def post(service: ServiceUnderTest, path: bytes, *headers: bytes) -> bytes:
    """Send one gRPC request and return whatever comes back until the stream ends."""
    context = ssl.create_default_context(cafile=str(service.folder / "public-root.pem"))
    context.set_alpn_protocols(["h2"])
    port = service.running.public_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    fixed = {b":method": b"POST", b":scheme": b"https", b":path": path, b":authority": b"localhost"}
    fixed |= {b"te": b"trailers", b"content-type": b"application/grpc"}
    block = b"".join(literal(name, value) for name, value in fixed.items()) + b"".join(headers)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
    writer.write(frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, EMPTY_MESSAGE))
    try:
        received = b""
        while b"grpc-status" not in received:
            chunk = await reader.read(4096)
            if not chunk:
                break
            received += chunk
        return received
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("path", [b"/x/\xff\xfe", b"\xff", b"/"])
async def test_a_method_whose_name_is_not_text_is_refused_and_the_service_goes_on(tmp_path: Path, path: bytes) -> None:
    async with serving(tmp_path, methods={SEND: anyone()}) as service, asyncio.timeout(20):
        for _ in range(3):
            assert b"may not call this method" in await post(service, path)
        async with service.public_channel() as channel:
            stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
            assert (await stub.Send(pb.SendRequest())).stored.accept_time == 1
    assert [line["method"] for line in service.events("call")] == ["unlisted"] * 3 + [SEND]


async def test_headers_that_are_not_text_do_no_harm(tmp_path: Path) -> None:
    headers = literal(b"authorization", b"Bearer \xff\xfe"), literal(b"x-request-id", b"\xff")
    async with serving(tmp_path, parts={"device_keys": object()}) as service, asyncio.timeout(20):
        assert b"the token is refused" in await post(service, SEND.encode(), *headers)
    (line,) = service.events("call")
    assert (line["reason"], len(line["request_id"])) == ("TOKEN_REFUSED", 16)
