"""Real services whose keys roll over while people talk."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keypost.client import Client, Event
from keypost.clock import DAY
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost_services.ca.trust import commands as trust_commands
from keypost_services.ca.trust.drafts import Edits
from keypost_services.ca.trust.key_files import load_public_key
from keypost_services.ca.trust.realm_files import RealmFolder, load_trust
from support.ca_service import REALM
from support.delivery import until
from support.keys import KeyPool
from support.people import CHEAP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost.protocol.realm_trust import RealmTrust
    from support.plain_stack import PlainStack


def no_passphrase() -> str:
    raise AssertionError


@dataclass
class Operator:
    """Rolls keys over by what the commands do, at the time of the services.

    Attributes:
        stack: The services.
        root_key: The root key that signs.
    """

    stack: PlainStack
    root_key: Path = field(init=False)
    known_roots: tuple[Path, ...] = ()
    statements: int = 0

    def __post_init__(self) -> None:
        self.root_key = self.files.root_key

    @property
    def files(self) -> RealmFolder:
        return RealmFolder(self.stack.folder / "realm")

    @property
    def trust(self) -> RealmTrust:
        return load_trust(self.files, self.stack.ca.clock())

    def new_record_key(self) -> bytes:
        made = trust_commands.new_record_key(self.files.path, None)
        return load_public_key(Path(str(made["public_key"])))

    def new_root_key(self) -> Path:
        file = self.stack.folder / f"root-{self.statements}.key"
        trust_commands.new_key(file, None, public=file.with_suffix(".pem"))
        return file

    async def install(self, **edits: Any) -> RealmTrust:
        """Have the next statement served, and return it once the CA and the directory do."""
        await asyncio.to_thread(self.install_file, edits)
        return await self.until_served()

    async def until_served(self) -> RealmTrust:
        """Return the statement in the realm's folder once the CA and the directory serve it."""
        trust = self.trust
        await until(lambda: self.served_by_ca() == self.served_by_directory() == trust.sequence)
        return trust

    def served_by_ca(self) -> int:
        taken_up = [line["sequence"] for line in self.stack.ca.log if line["event"] == "realm"]
        return taken_up[-1] if taken_up else 1

    def served_by_directory(self) -> int:
        sample = self.stack.directory.runtime.metrics.get_sample_value("keypost_trust_sequence")
        return int(sample or 0)

    def refused_by_ca(self) -> int:
        return len([line for line in self.stack.ca.log if line["event"] == "realm refused"])

    def install_file(self, edits: dict[str, Any], *, force: bool = False) -> None:
        """Put the next statement into the realm's folder."""
        self.statements += 1
        now, folder = self.stack.ca.clock(), self.stack.folder
        draft, signed = folder / f"draft-{self.statements}.json", folder / f"signed-{self.statements}.json"
        trust_commands.draft(self.files.path, draft, Edits(**{"until_time": now + 300 * DAY, **edits}), now)
        reviewed = trust_commands.review(draft, self.root_key, self.known_roots, now)
        trust_commands.sign(reviewed, self.root_key, no_passphrase, signed)
        trust_commands.install(self.files.path, signed, now, force=force)


@dataclass
class Traffic:
    """Alice writes to Bob without a pause; whatever fails, fails the test.

    Attributes:
        alice: Sends numbers.
        bob: Receives them.
        stack: The services, whose clock is moved only between messages.
    """

    alice: Client
    bob: Client
    stack: PlainStack
    sent: int = 0
    received: list[str] = field(default_factory=list)
    pause: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self) -> None:
        while True:
            async with self.pause:
                await self.alice.send("bob", str(self.sent))
                self.sent += 1
            await asyncio.sleep(0)

    async def receive(self) -> None:
        async for message in self.bob.receive():
            self.received.append(message.text)

    async def flow(self, tasks: list[asyncio.Task[None]]) -> None:
        """Return once some more messages have gone all the way; a failure of either side is raised."""
        wanted = len(self.received) + 5
        await until(lambda: len(self.received) >= wanted or any(task.done() for task in tasks))
        for task in tasks:
            if task.done():
                task.result()
                raise AssertionError("somebody stopped talking")

    async def advance(self, milliseconds: int) -> None:
        """Let time pass between two messages, once everything that was sent has arrived."""
        async with self.pause:
            await until(lambda: len(self.received) == self.sent)
            self.stack.ca.clock.advance(milliseconds)


def bundle_of(stack: PlainStack, *root_keys: bytes) -> pb.Bundle:
    """Return a bundle of the services with these root keys."""
    ports = {name: f"127.0.0.1:{service.public_port}" for name, service in stack.services.items()}
    return pb.Bundle(
        realm=REALM,
        endpoints=pb.Endpoints(**ports),
        root_keys=[pb.RootKey(public_key_der=key) for key in root_keys],
        tls_roots_pem=(stack.folder / "public-root.pem").read_text(),
    )


async def open_client(stack: PlainStack, name: str, bundle: pb.Bundle | None, keys: KeyPool, **options: Any) -> Client:
    profile = stack.folder / "profiles" / name
    profile.parent.mkdir(exist_ok=True)
    return await Client.open(
        profile, unlock=CHEAP, bundle=bundle, clock=stack.ca.clock, generate=keys, automatic_renewal=False, **options
    )


@contextlib.asynccontextmanager
async def talking(
    stack: PlainStack, keys: KeyPool | None = None
) -> AsyncIterator[tuple[Traffic, list[asyncio.Task[None]]]]:
    """Have Alice write to Bob as long as the context lasts; then everything has arrived, once and in order."""
    keys, told = keys or KeyPool(), list[Event]()
    bundle = bundle_of(stack, *stack.ca.trust.root_keys)
    async with contextlib.AsyncExitStack() as exits:
        people: list[Client] = []
        for name in ("alice", "bob"):
            client = await open_client(stack, name, bundle, keys, on_event=told.append)
            people.append(await exits.enter_async_context(client))
            await client.enroll(name)
        traffic = Traffic(people[0], people[1], stack)
        tasks = [asyncio.create_task(traffic.send()), asyncio.create_task(traffic.receive())]
        try:
            await traffic.flow(tasks)
            yield traffic, tasks
            async with traffic.pause:
                await until(lambda: len(traffic.received) == traffic.sent)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert traffic.received == [str(number) for number in range(traffic.sent)]
    assert [event for event in told if event.kind == "error"] == []
