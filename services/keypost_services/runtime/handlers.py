"""Wraps the handler of a method, whatever its arity, so that one function sees all of a call.

Requests are parsed only after the caller is admitted, and responses are serialised where a failure can still be
reported: grpc.aio would otherwise tell the caller the text of the exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from keypost_services.runtime.parsing import unparsed

if TYPE_CHECKING:
    from keypost_services.runtime.errors import ServiceError

Handler = Any  # grpc.RpcMethodHandler, whose attributes the stubs type too narrowly
Before = Callable[[Any], Awaitable[None]]
"""What is done once a request has been parsed and before it is served: gets the request, None if there is none yet."""
Invoke = Callable[[Before], Coroutine[Any, Any, bytes | None]]


class RunCall(Protocol):
    """Runs one call: admits the caller, then invokes the servicer, and reports whatever goes wrong."""

    async def __call__(self, context: Any, invoke: Invoke, *, streaming: bool) -> bytes | None:
        """Return the serialised response of a unary call; None of a stream."""
        ...


@dataclass(frozen=True, slots=True)
class Serialised:
    """A response of a servicer that holds it serialised already."""

    message: bytes


@dataclass(frozen=True)
class _Malformed:
    """Stands for a request of a stream that does not parse."""

    refusal: ServiceError


def wrap(handler: Handler, run: RunCall) -> Handler:
    """Return ``handler`` with ``run`` around it."""
    if handler.request_streaming:
        return _wrap_request_stream(handler, run)
    return _wrap_request_unary(handler, run)


def refusing(run: RunCall) -> Handler:
    """Return a handler for a method that nobody may call: ``run`` refuses before it reads anything."""

    async def behaviour(_requests: Any, context: Any) -> None:
        await run(context, _nothing, streaming=False)

    return grpc.stream_stream_rpc_method_handler(behaviour)


async def _nothing(_before: Before) -> None:
    return None


def _wrap_request_unary(handler: Handler, run: RunCall) -> Handler:
    if handler.response_streaming:

        async def unary_stream(raw: bytes, context: Any) -> None:
            async def invoke(before: Before) -> None:
                request = await _read(handler, raw, before)
                await _pump(handler.unary_stream(request, context), context)

            await run(context, invoke, streaming=True)

        return grpc.unary_stream_rpc_method_handler(unary_stream, None, _serializer(handler))

    async def unary_unary(raw: bytes, context: Any) -> bytes | None:
        async def invoke(before: Before) -> bytes:
            request = await _read(handler, raw, before)
            return _serialize(handler, await handler.unary_unary(request, context))

        return await run(context, invoke, streaming=False)

    return grpc.unary_unary_rpc_method_handler(unary_unary)


def _wrap_request_stream(handler: Handler, run: RunCall) -> Handler:
    if handler.response_streaming:

        async def stream_stream(requests: Any, context: Any) -> None:
            async def invoke(before: Before) -> None:
                await before(None)
                await _pump(handler.stream_stream(_checked(requests), context), context)

            await run(context, invoke, streaming=True)

        return grpc.stream_stream_rpc_method_handler(stream_stream, _parser(handler), _serializer(handler))

    async def stream_unary(requests: Any, context: Any) -> bytes | None:
        async def invoke(before: Before) -> bytes:
            await before(None)
            return _serialize(handler, await handler.stream_unary(_checked(requests), context))

        return await run(context, invoke, streaming=True)

    return grpc.stream_unary_rpc_method_handler(stream_unary, _parser(handler))


async def _pump(responses: Any, context: Any) -> None:
    """Send what the servicer yields; or wait for a servicer that writes by itself."""
    # With the first response they would be sent a second time at the end of a stream that ends while that one is on
    # its way: gRPC then fails, and the caller waits for an end that never comes.
    await context.send_initial_metadata(())
    if isinstance(responses, Awaitable):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for response in responses:
            await context.write(response)


async def _read(handler: Handler, raw: bytes, before: Before) -> Any:
    try:
        request = handler.request_deserializer(raw)
    except Exception as error:  # whatever the parser says, the caller sent it
        await before(None)
        raise _refusal(handler, raw) from error
    await before(request)
    return request


def _refusal(handler: Handler, raw: bytes) -> ServiceError:
    return unparsed(type(handler.request_deserializer(b"")), raw)


def _parser(handler: Handler) -> Callable[[bytes], Any]:
    def parse(raw: bytes) -> Any:
        try:
            return handler.request_deserializer(raw)
        except Exception:  # noqa: BLE001  # raised here, its text would reach the caller; _checked reports it
            return _Malformed(_refusal(handler, raw))

    return parse


async def _checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Malformed):
            raise request.refusal
        yield request


def _serialize(handler: Handler, response: Any) -> bytes:
    if isinstance(response, Serialised):
        return response.message
    serialized: bytes = handler.response_serializer(response)
    return serialized


def _serializer(handler: Handler) -> Callable[[Any], bytes]:
    def serialize(response: Any) -> bytes:
        return _serialize(handler, response)

    return serialize
