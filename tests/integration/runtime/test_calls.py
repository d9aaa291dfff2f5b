from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import SECOND
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost.errors import InvalidArgumentError
from keypost.protocol.errors import EndorsementError, RecordExpiredError
from keypost_services.runtime.auth import CallerKind, current_caller
from keypost_services.runtime.errors import ServiceError, invalid_field
from keypost_services.runtime.limits.table import none
from keypost_services.runtime.method_table import anyone
from support.clock import ManualClock
from support.service import RECEIVE, SEND, SERVICE, error_info, retry_after_ms, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.service import ServiceUnderTest

OPEN = {SEND: anyone(), RECEIVE: anyone()}
SECRET = "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
EMPTY = pb.ReceiveResponse(queue_empty=pb.QueueEmpty())


@contextlib.asynccontextmanager
async def open_service(folder: Path, **options: Any) -> AsyncIterator[tuple[ServiceUnderTest, Any]]:
    async with (
        serving(folder, methods=OPEN, **options) as service,
        service.public_channel() as channel,
        asyncio.timeout(20),
    ):
        yield service, delivery_service_pb2_grpc.DeliveryServiceStub(channel)


def raw(channel: grpc.aio.Channel) -> Any:
    """Return the channel for calls whose messages are bytes as they are."""
    return channel


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """Return how a unary call or a stream fails."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    pytest.fail("the call did not fail")


def raising(error: BaseException) -> Any:
    async def fail(_request: Any, _context: Any) -> Any:
        raise error

    return fail


def raising_midway(error: BaseException) -> Any:
    async def fail(requests: Any, _context: Any) -> AsyncIterator[pb.ReceiveResponse]:
        async for _ in requests:
            yield EMPTY
            raise error

    return fail


async def test_a_call_is_answered_and_logged(tmp_path: Path) -> None:
    async with open_service(tmp_path) as (service, stub):
        response = await stub.Send(pb.SendRequest(), metadata=(("x-request-id", "abc-1"),))
        await stub.Send(pb.SendRequest(), metadata=(("x-request-id", "no such id!"),))
    assert response.stored.accept_time == 1
    first, second = service.events("call")
    assert (first["method"], first["code"], first["caller_kind"]) == (SEND, "OK", "anyone")
    assert first["request_id"] == "abc-1"
    assert len(second["request_id"]) == 16


async def test_a_servicer_knows_its_caller(tmp_path: Path) -> None:
    seen = []

    async def look(_request: Any, _context: Any) -> pb.SendResponse:
        seen.append(current_caller())
        return pb.SendResponse()

    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send = look
        await stub.Send(pb.SendRequest())
    assert seen[0].kind is CallerKind.ANYONE
    assert seen[0].peer.startswith("ipv4:127.0.0.1:")
    with pytest.raises(LookupError):
        current_caller()


async def test_a_refusal_reaches_the_caller_whole(tmp_path: Path) -> None:
    error = ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL", "full", retry_after_ms=1_500, username="bob"
    )
    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send, service.servicer.on_receive = raising(error), raising_midway(error)
        unary = await failure(stub.Send(pb.SendRequest()))
        stream = await failure(stub.Receive(iter([pb.ReceiveRequest()])))
    for caught in (unary, stream):
        assert (caught.code(), caught.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        info = error_info(caught)
        assert (info.reason, dict(info.metadata)) == ("MAILBOX_FULL", {"username": "bob"})
        assert retry_after_ms(caught) == 1_500
    assert {line["reason"] for line in service.events("call")} == {"MAILBOX_FULL"}


async def test_a_refusal_is_cut_to_what_travels(tmp_path: Path) -> None:
    facts: dict[str, Any] = {f"fact{number}": "y" * 9_000 for number in range(20)}
    error = ServiceError(grpc.StatusCode.ABORTED, "LONG", "x" * 50_000, **facts)
    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send = raising(error)
        caught = await failure(stub.Send(pb.SendRequest()))
    assert caught.code() is grpc.StatusCode.ABORTED
    assert error_info(caught).reason == "LONG"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"password hunter2, {SECRET}"),
        RecordExpiredError("of nobody's business"),
        grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, details="upstream hunter2"),
        grpc.aio.UsageError("hunter2"),
        TimeoutError("hunter2"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_unforeseen_exception_shows_nothing_but_an_id(
    tmp_path: Path, error: Exception, *, streaming: bool
) -> None:
    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send, service.servicer.on_receive = raising(error), raising_midway(error)
        call = stub.Receive(iter([pb.ReceiveRequest()])) if streaming else stub.Send(pb.SendRequest())
        caught = await failure(call)
    info = error_info(caught)
    assert (caught.code(), info.reason, set(info.metadata)) == (grpc.StatusCode.INTERNAL, "INTERNAL", {"error_id"})
    told = f"{caught.details()}{caught.trailing_metadata()}"
    for text in ("hunter2", "nobody", type(error).__name__, "eyJ"):
        assert text not in told
    (line,) = service.events("unforeseen")
    assert line["error_id"] == info.metadata["error_id"]
    assert type(error).__name__ in line["exception"]
    assert "raising" in line["exception"] or "fail" in line["exception"]
    assert SECRET not in service.output.getvalue()


async def test_a_servicer_that_answers_nonsense_shows_nothing_but_an_id(tmp_path: Path) -> None:
    async def nonsense(_request: Any, _context: Any) -> Any:
        return "hunter2"

    async def stream_of_nonsense(_requests: Any, _context: Any) -> AsyncIterator[Any]:
        yield "hunter2"

    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send, service.servicer.on_receive = nonsense, stream_of_nonsense
        for call in (stub.Send(pb.SendRequest()), stub.Receive(iter([pb.ReceiveRequest()]))):
            caught = await failure(call)
            assert error_info(caught).reason == "INTERNAL"
            assert "hunter2" not in (caught.details() or "")


async def test_errors_that_a_service_names_reach_the_caller(tmp_path: Path) -> None:
    codes = {EndorsementError: grpc.StatusCode.PERMISSION_DENIED}
    async with open_service(tmp_path, parts={"error_codes": codes}) as (service, stub):
        for error, code, reason in (
            (EndorsementError("no"), grpc.StatusCode.PERMISSION_DENIED, "ENDORSEMENT_REFUSED"),
            (InvalidArgumentError("bad", field="x"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
            (invalid_field("y", "must be"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        ):
            service.servicer.on_send = raising(error)
            caught = await failure(stub.Send(pb.SendRequest()))
            assert (caught.code(), error_info(caught).reason) == (code, reason)


@pytest.mark.parametrize(
    "method", ["/keypost.delivery.v1.DeliveryService/Nothing", "/no.such.Service/Method", "/x", RECEIVE]
)
async def test_a_method_that_is_not_in_the_table_is_refused(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path, methods={SEND: anyone()}) as service, service.public_channel() as channel:
        caught = await failure(raw(channel).unary_unary(method)(b"", timeout=10))
    assert caught.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(caught).reason == "METHOD_NOT_ADMITTED"
    (line,) = service.events("call")
    assert line["method"] == "unlisted"


async def test_a_request_that_does_not_parse_is_the_callers_fault(tmp_path: Path) -> None:
    async with serving(tmp_path, methods=OPEN) as service, service.public_channel() as channel:
        unary = await failure(raw(channel).unary_unary(SEND)(b"\xff\xff", timeout=10))
        stream = await failure(raw(channel).stream_stream(RECEIVE)(iter([b"\xff\xff"]), timeout=10))
    for caught in (unary, stream):
        assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (error_info(caught).reason, error_info(caught).metadata["field"]) == ("INVALID_FIELD", "request")


async def test_a_stream_that_ends_while_its_first_response_is_on_its_way_has_an_end(tmp_path: Path) -> None:
    class Interrupted(delivery_service_pb2_grpc.DeliveryServiceServicer):
        async def Receive(self, _requests: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
            writing = asyncio.ensure_future(context.write(EMPTY))
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            raise invalid_field("acknowledge", "is all that may follow start")

    add = delivery_service_pb2_grpc.add_DeliveryServiceServicer_to_server
    parts = {"services": [(SERVICE, add, Interrupted())]}  # type: ignore[abstract]  # Send is not called here
    async with open_service(tmp_path, parts=parts) as (_, stub):
        caught = await failure(stub.Receive(iter([pb.ReceiveRequest()]), timeout=10))
    assert error_info(caught).metadata["field"] == "acknowledge"


async def test_a_request_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with open_service(tmp_path, max_request_bytes=64 * 1024) as (_, stub):
        request = pb.SendRequest()
        request.envelope.ciphertext = bytes(65 * 1024)
        caught = await failure(stub.Send(request))
    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_unary_call_does_not_last_for_ever(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def wait(_request: Any, _context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with open_service(tmp_path, call_seconds=0.05) as (service, stub):
        service.servicer.on_send = wait
        caught = await failure(stub.Send(pb.SendRequest()))
    assert ended.is_set()
    assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TOO_SLOW")


async def test_more_calls_than_allowed_are_refused_until_some_end(tmp_path: Path) -> None:
    async with open_service(tmp_path, max_calls=1) as (_, stub):
        stream = stub.Receive()
        await stream.write(pb.ReceiveRequest())
        await stream.read()
        caught = await failure(stub.Send(pb.SendRequest()))
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert (await stub.Send(pb.SendRequest())).stored.accept_time == 1
    assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert retry_after_ms(caught) == 1_000


async def test_what_admits_anyone_is_limited_for_each_address(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_service(tmp_path, clock=clock, anonymous_calls_per_second=0.5) as (service, stub):
        for _ in range(2):
            await stub.Send(pb.SendRequest())
        caught = await failure(stub.Send(pb.SendRequest()))
        clock.advance(2 * SECOND)
        await stub.Send(pb.SendRequest())
    assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert 0 < (retry_after_ms(caught) or 0) <= 2_001
    assert [line["code"] for line in service.events("call")] == ["OK", "OK", "RESOURCE_EXHAUSTED", "OK"]


async def test_when_the_caller_gives_up_the_servicer_is_cancelled(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def wait_streaming(*_: Any) -> AsyncIterator[Any]:
        await wait()
        yield

    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send, service.servicer.on_receive = wait, wait_streaming
        for start in (lambda: stub.Send(pb.SendRequest()), stub.Receive):
            call = start()
            await begun.wait()
            call.cancel()
            await ended.wait()
            begun.clear()
            ended.clear()
    assert [line["code"] for line in service.events("call")] == ["CANCELLED", "CANCELLED"]
    assert not service.events("unforeseen")


async def test_a_stream_ends_after_its_time(tmp_path: Path) -> None:
    async with open_service(tmp_path, stream_seconds=0.05) as (service, stub):
        stream = stub.Receive()
        await stream.write(pb.ReceiveRequest())
        assert await stream.read() == EMPTY
        caught = await failure(stream.read())
    assert (caught.code(), error_info(caught).reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_EXPIRED")
    assert service.events("call")[0]["reason"] == "STREAM_EXPIRED"


async def test_a_stream_to_a_caller_who_does_not_read_ends_too(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def flood(_requests: Any, _context: Any) -> AsyncIterator[pb.ReceiveResponse]:
        delivery = pb.Delivery(envelope=bytes(1_000_000))
        try:
            while True:
                yield pb.ReceiveResponse(batch=pb.Batch(deliveries=[delivery]))
        finally:
            ended.set()

    async with open_service(tmp_path, stream_seconds=0.2) as (service, stub):
        service.servicer.on_receive = flood
        stream = stub.Receive()
        await stream.read()
        await ended.wait()
        stream.cancel()


async def test_a_servicer_may_abort_by_itself(tmp_path: Path) -> None:
    async def abort(_request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there already")

    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send = abort
        caught = await failure(stub.Send(pb.SendRequest()))
    assert (caught.code(), caught.details()) == (grpc.StatusCode.ALREADY_EXISTS, "there already")
    assert service.events("call")[0]["code"] == "ALREADY_EXISTS"


async def test_no_line_holds_a_token_or_a_body(tmp_path: Path) -> None:
    body = "the plaintext of a message"

    async def fail(request: pb.SendRequest, _context: Any) -> Any:
        service.running.runtime.log.info("had", request=request, body=body, raw=request.SerializeToString())
        raise RuntimeError("no")

    async with open_service(tmp_path) as (service, stub):
        service.servicer.on_send = fail
        request = pb.SendRequest()
        request.envelope.ciphertext = body.encode()
        await failure(stub.Send(request, metadata=(("authorization", f"Bearer {SECRET}"),)))
    text = service.output.getvalue()
    assert len(service.log) >= 3
    for secret in (body, SECRET, SECRET.split(".")[2], body.encode().hex()):
        assert secret not in text


class OtherArities:
    """Servicers of the two arities that no proto of ours has, and of one that reads and writes by itself."""

    PREFIX = "/example.Other/"

    async def collect(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def count(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def by_itself(self, _requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(request.upper())

    def add(self, _servicer: object, server: grpc.aio.Server) -> None:
        def same(data: bytes) -> bytes:
            return data

        handlers = {
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect, same, same),
            "Count": grpc.unary_stream_rpc_method_handler(self.count, same, same),
            "ByItself": grpc.stream_stream_rpc_method_handler(self.by_itself, same, same),
        }
        server.add_registered_method_handlers("example.Other", handlers)


async def test_all_arities_are_served(tmp_path: Path) -> None:
    other = OtherArities()
    names = [f"{other.PREFIX}{name}" for name in ("Collect", "Count", "ByItself")]
    tables: dict[str, Any] = {"methods": dict.fromkeys(names, anyone()), "method_limits": dict.fromkeys(names, none())}
    parts = {"services": [("example.Other", other.add, other)]}
    async with (
        serving(tmp_path, parts=parts, **tables) as service,
        service.public_channel() as channel,
        asyncio.timeout(20),
    ):
        assert await raw(channel).stream_unary(f"{other.PREFIX}Collect")(iter([b"a", b"b"])) == b"ab"
        assert [item async for item in raw(channel).unary_stream(f"{other.PREFIX}Count")(b"3")] == [b"0", b"1", b"2"]
        stream = raw(channel).stream_stream(f"{other.PREFIX}ByItself")(iter([b"x", b"y"]))
        assert [item async for item in stream] == [b"X", b"Y"]
        caught = await failure(raw(channel).unary_stream(f"{other.PREFIX}Count")(b"many"))
        assert error_info(caught).reason == "INTERNAL"
