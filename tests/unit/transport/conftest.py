from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from keypost.transport.channels import open_channel
from keypost.transport.retries import Backoff, Retries
from support.tls import TlsFiles, issue_tls

Connect = Callable[[Callable[[grpc.aio.Server], None]], Awaitable[grpc.aio.Channel]]


@pytest.fixture(scope="session")
def tls() -> TlsFiles:
    return issue_tls()


@pytest.fixture
async def connect(tls: TlsFiles) -> AsyncIterator[Connect]:
    """Starts a server with the servicer that the given function adds; returns a channel to it."""
    async with AsyncExitStack() as stack:

        async def start(add: Callable[[grpc.aio.Server], None]) -> grpc.aio.Channel:
            server = grpc.aio.server()
            add(server)
            port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
            await server.start()
            stack.push_async_callback(server.stop, None)
            channel = open_channel(f"127.0.0.1:{port}", tls.roots_pem)
            return await stack.enter_async_context(channel)

        yield start


class Sleeps(list[float]):
    """Remembers how long was slept and does not sleep."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def retries(sleeps: Any) -> Retries:
    return Retries(attempts=4, backoff=Backoff(uniform=lambda _low, high: high), sleep=sleeps)
