from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from keypost.client import Client
from keypost.keystore.unlock import Argon2Cost, Passphrase
from keypost.protocol.suites import SUITES, WEAK, Suite
from support.racing import NamedPerson
from support.stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.stack import Stack

CHEAP = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))
Open = Callable[..., Awaitable[NamedPerson]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The three services and a Valkey, each a process; the realm allows both suites."""
    with running_stack(tmp_path_factory.mktemp("stack"), weak_suite=True) as running:
        yield running


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    found: Suite = request.param
    return found


@pytest.fixture
async def open_person(stack: Stack, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the profile of a name, which is not enrolled; the client is closed at the end."""
    async with AsyncExitStack() as clients:

        async def start(name: str, **options: Any) -> NamedPerson:
            person = NamedPerson(client=None, name=name)  # type: ignore[arg-type]
            person.client = await Client.open(
                tmp_path / name,
                unlock=CHEAP,
                bundle=stack.layout.bundle,
                observer=person.see,
                on_event=person.hear,
                minimum_suite=WEAK,
                **options,
            )
            clients.push_async_callback(person.client.close)
            return person

        yield start
