"""A grpc.aio server that no caller can end by the name of a method.

grpc.aio decodes the name of every method that no service registered, and the loop that accepts calls ends, and the
server with it, when that name is not UTF-8: one request, from anybody, before anything is checked. Here such calls are
handled apart, without their name. What a service registers goes the usual way.

This reaches into what grpcio keeps to itself; a test sends such a request and fails when grpcio has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc._cython import cygrpc
from grpc.aio import _server

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    import grpc

NO_NAME = ""
"""The name by which interceptors see a method that no service registered."""

_Server: Any = _server.Server
_AioServer: Any = cygrpc.AioServer
_RequestCallError: Any = vars(cygrpc)["_RequestCallError"]
_MethodResolver: Any = vars(cygrpc)["_MethodResolver"]
_handle_rpc: Any = vars(cygrpc)["_handle_rpc"]
_schedule_rpc_coro: Any = vars(cygrpc)["_schedule_rpc_coro"]


class _SteadyAioServer(_AioServer):  # type: ignore[misc]  # has no types
    def __init__(self, loop: asyncio.AbstractEventLoop, interceptors: Sequence[Any], options: Sequence[Any]) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self._steady_loop = loop
        self._steady_interceptors = tuple(interceptors)
        self._steady_calls: set[asyncio.Task[Any]] = set()

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is not None:
            return super()._make_request_call_future(method)
        return self._steady_loop.create_task(self._accept_unregistered())

    async def _accept_unregistered(self) -> None:
        """Accept calls of methods that no service registered, until the server stops and this task is cancelled."""
        while True:
            try:
                state = await self._request_call()
            except _RequestCallError:
                # The server is shutting down, or the call was over before it began.
                if not self.is_running():
                    raise
                continue
            task = self._steady_loop.create_task(self._handle_unregistered(state))
            self._steady_calls.add(task)
            task.add_done_callback(self._steady_calls.discard)

    async def _handle_unregistered(self, state: Any) -> None:
        resolver, concurrency_exceeded = _MethodResolver([], {}), False
        rpc = _handle_rpc(NO_NAME, resolver, self._steady_interceptors, state, self._steady_loop, concurrency_exceeded)
        await _schedule_rpc_coro(rpc, state, self._steady_loop, NO_NAME)


def steady_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]
) -> grpc.aio.Server:
    """Return a server of what services register; every other call reaches the interceptors without a name.

    Args:
        interceptors: As ``grpc.aio.server`` takes them.
        options: Likewise.
    """
    server: grpc.aio.Server = _SteadyServer(interceptors, options)
    return server


class _SteadyServer(_Server):  # type: ignore[misc]  # has no types
    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _SteadyAioServer(self._loop, interceptors, tuple(options))
