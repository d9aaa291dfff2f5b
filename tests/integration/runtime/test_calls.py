from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost.protocol.errors import RecordExpiredError, TokenRefusedError
from keypost.protocol.identifiers import check_username
from keypost_services.runtime.auth import CallerKind, current_caller
from keypost_services.runtime.errors import ServiceError, invalid_field
from keypost_services.runtime.method_table import anyone
from support.service import RECEIVE, SEND, error_info, retry_after_ms, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OPEN = {SEND: anyone(), RECEIVE: anyone()}
SECRET = "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


async def failing_send(folder: Path, error: BaseException, **options: Any) -> grpc.aio.AioRpcError:
    async def fail(_request: Any, _context: Any) -> pb.SendResponse:
        raise error

    async with serving(folder, methods=OPEN, **options) as service, service.public_channel() as channel:
        service.servicer.on_send = fail
        stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Send(pb.SendRequest())
    return caught.value


async def test_a_call_is_answered_and_logged(tmp_path: Path) -> None:
    async with serving(tmp_path, methods=OPEN) as service, service.public_channel() as channel:
        stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
        response = await stub.Send(pb.SendRequest(), metadata=(("x-request-id", "abc-1"),))
    assert response.stored.accept_time == 1
    (line,) = service.events("call")
    assert line["method"] == SEND
    assert line["code"] == "OK"
    assert line["request_id"] == "abc-1"
    assert line["caller_kind"] == "anyone"
