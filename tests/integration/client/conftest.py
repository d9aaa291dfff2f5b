from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from keypost.client import Client
from keypost.keystore.unlock import Argon2Cost, Passphrase
from support.stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.stack import Stack

CHEAP = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))
Enrolled = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def unlock() -> Passphrase:
    return CHEAP


@pytest.fixture
async def enrolled(stack: Stack, tmp_path: Path) -> AsyncIterator[Enrolled]:
    """Opens a client and enrols it."""
    async with AsyncExitStack() as clients:

        async def enroll(username: str, **options: Any) -> Client:
            opened = await Client.open(tmp_path / username, unlock=CHEAP, bundle=stack.layout.bundle, **options)
            client = await clients.enter_async_context(opened)
            await client.enroll(username)
            return client

        yield enroll
