"""People with clients over the simulated services; the fixtures are imported by the conftest of each folder.

Whatever uses ``open_client``, ``alice`` or ``bob`` runs over both surfaces of the client (see ``support.surfaces``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from keypost.keystore.unlock import Argon2Cost, Passphrase
from keypost.transport.retries import Backoff, Retries
from support.clock import ManualClock
from support.keys import KeyPool
from support.realm import SimulatedRealm
from support.simulation import Services, serving
from support.surfaces import surface
from support.tls import TlsFiles, issue_tls

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.client import Client, Event, Received
    from keypost.protocol.steps import Step
    from keypost.protocol.suites import Suite

CHEAP = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))


@dataclass
class Person:
    """A client with what it showed and told."""

    client: Client
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def see(self, step: Step) -> None:
        self.steps.append(step)
        self._tell()

    def hear(self, event: Event) -> None:
        self.events.append(event)
        self._tell()

    def _tell(self) -> None:
        # The synchronous client shows and tells in a thread of its own.
        self.loop.call_soon_threadsafe(self.changed.set)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for steps and events until ``condition`` holds."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def numbers(self, kind: str = "negotiation") -> list[int]:
        return [step.step for step in self.steps if step.list == kind]

    def reasons(self, kind: str | None = None) -> list[str]:
        return [event.reason for event in self.events if kind in (None, event.kind)]

    async def inbox(self) -> list[Received]:
        return [message async for message in self.client.receive(follow=False)]


Open = Callable[..., Awaitable[Person]]

FOR_EVER = 100_000
"""How often something fails that fails until a test mends it."""

IMPATIENT = Retries(backoff=Backoff(first=0.001, longest=0.01), patience=0.2)
"""For a client that waits for no outcome for long."""

__all__ = ["alice", "bob", "clock", "generate", "impatient", "open_client", "services", "surface", "tls"]


@pytest.fixture(scope="session")
def tls() -> TlsFiles:
    return issue_tls()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def generate() -> Callable[[Suite], RSAPrivateKey]:
    """The keys of the pool, one after the other, whoever asks."""
    return KeyPool()


@pytest.fixture
async def services(clock: ManualClock, tls: TlsFiles, generate: Any) -> AsyncIterator[Services]:
    async with serving(Services(SimulatedRealm(clock=clock, new_private_key=generate)), tls) as running:
        yield running


@pytest.fixture
async def open_client(
    surface: Any, services: Services, tls: TlsFiles, clock: ManualClock, generate: Any, tmp_path: Path
) -> AsyncIterator[Open]:
    """Opens the profile of a name; the client is closed at the end."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **options: Any) -> Person:
            person = Person(client=None)  # type: ignore[arg-type]
            defaults: dict[str, Any] = {
                "unlock": CHEAP,
                "bundle": services.bundle(tls),
                "observer": person.see,
                "on_event": person.hear,
                "clock": clock,
                "retries": Retries(backoff=Backoff(first=0.001, longest=0.01)),
                "generate": generate,
            }
            person.client = await surface.open(tmp_path / name, **{**defaults, **options})
            stack.push_async_callback(person.client.close)
            return person

        yield start


@pytest.fixture
async def alice(open_client: Open) -> Person:
    person = await open_client("alice")
    await person.client.enroll("alice")
    return person


@pytest.fixture
async def impatient(open_client: Open) -> Person:
    """Alice, who waits for no outcome for long."""
    person = await open_client("alice", retries=IMPATIENT)
    await person.client.enroll("alice")
    return person


@pytest.fixture
async def bob(open_client: Open) -> Person:
    person = await open_client("bob")
    await person.client.enroll("bob")
    return person
