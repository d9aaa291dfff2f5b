"""Clients for tests that have no event loop: the simulated services run on one of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from keypost.sync import Client
from keypost.sync.loop_thread import LoopThread
from keypost.transport.retries import Backoff, Retries
from support.people import CHEAP, clock, generate, tls
from support.realm import SimulatedRealm
from support.simulation import Services, serving

if TYPE_CHECKING:
    from pathlib import Path

    from support.clock import ManualClock
    from support.tls import TlsFiles

__all__ = ["clock", "generate", "tls"]

Open = Callable[..., Client]


@pytest.fixture
def services(clock: ManualClock, tls: TlsFiles, generate: Any) -> Iterator[Services]:
    stack = AsyncExitStack()

    async def serve() -> Services:
        return await stack.enter_async_context(
            serving(Services(SimulatedRealm(clock=clock, new_private_key=generate)), tls)
        )

    thread = LoopThread()
    thread.last_act = stack.aclose
    yield thread.run(serve)
    thread.close()


@pytest.fixture
def options(services: Services, tls: TlsFiles, clock: ManualClock, generate: Any) -> dict[str, Any]:
    """What a client is opened with."""
    return {
        "unlock": CHEAP,
        "bundle": services.bundle(tls),
        "clock": clock,
        "retries": Retries(backoff=Backoff(first=0.001, longest=0.01)),
        "generate": generate,
    }


@pytest.fixture
def open_client(options: dict[str, Any], tmp_path: Path) -> Iterator[Open]:
    """Opens the profile of a name; the client is closed at the end."""
    with ExitStack() as stack:

        def start(name: str, **other: Any) -> Client:
            return stack.enter_context(Client.open(tmp_path / name, **{**options, **other}))

        yield start


@pytest.fixture
def alice(open_client: Open) -> Client:
    client = open_client("alice")
    client.enroll("alice")
    return client


@pytest.fixture
def bob(open_client: Open) -> Client:
    client = open_client("bob")
    client.enroll("bob")
    return client
