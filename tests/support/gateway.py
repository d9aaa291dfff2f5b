"""A gateway as it stands before services: calls, not connections, go on from it, and it says who called."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from keypost_services.runtime.buckets import ip_address_of
from keypost_services.runtime.proxies import FORWARDED_FOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Forwarding(grpc.GenericRpcHandler):
    """Hands unary calls on, with the caller appended to what it says of itself, as gateways do."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: Any) -> Any:
        call: Any = self._channel.unary_unary(handler_call_details.method)

        async def hand_on(request: bytes, context: Any) -> bytes:
            own = [value for name, value in context.invocation_metadata() if name == FORWARDED_FOR]
            told = ", ".join([*own, str(ip_address_of(context.peer()))])
            try:
                answer: bytes = await call(request, metadata=((FORWARDED_FOR, told),), timeout=20)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))
            return answer

        return grpc.unary_unary_rpc_method_handler(hand_on)


@contextlib.asynccontextmanager
async def gateway(port: int, root_pem: bytes) -> AsyncIterator[int]:
    """Yield the port, without TLS, of a gateway to the service at ``port``, which sees it as 127.0.0.1."""
    credentials = grpc.ssl_channel_credentials(root_pem)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        server = grpc.aio.server(handlers=[_Forwarding(channel)])
        own = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield own
        finally:
            await server.stop(0)
