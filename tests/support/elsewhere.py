"""Calls from another network address: a forwarder that connects to a service of this machine from, say, 127.0.0.2."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def forwarded(port: int, address: str) -> AsyncIterator[int]:
    """Yield a port whose connections reach ``port`` of the loopback interface from ``address``.

    Args:
        port: Where the service listens.
        address: Any address of the loopback network.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        for one in (writer, back):
            one.close()
            with contextlib.suppress(OSError):
                await one.wait_closed()
        tasks.discard(task)

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
