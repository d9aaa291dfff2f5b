"""A device's life in a process of its own, killed before any of its writes; and the restart that finds what is left.

``python -m support.crash_story`` is the mother of these processes: it reads one job a line and forks for each, so that
nothing is imported twice. A job tells a story and ends it before its ``kill_at``-th write, or restarts after one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keypost.client import Client, restore_profile
from keypost.client.arguments import LARGEST_BODY
from keypost.client.files import PARTS_UNDER_WAY
from keypost.clock import MINUTE
from keypost.keystore import Argon2Cost, Passphrase, database
from keypost.keystore.copies import FILE_NAME
from keypost.protocol import negotiation
from keypost.transport.retries import Backoff, Retries
from support.clock import START
from support.keys import KeyPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.client import Event, Received
    from keypost.protocol.suites import Suite

UNLOCK = Passphrase("correct horse", Argon2Cost(memory=8, iterations=1, lanes=1))
WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "RELEASE", "CREATE", "ALTER", "PRAGMA")
FILE_BYTES = 400_000
LONG_FILE_BYTES = 2_000_000
"""Of more parts than are under way at one time."""
KEPT_WITHIN = 50
"""Seconds: what is not kept by then never is."""
LARGE = "x" * LARGEST_BODY
POISON = "poison"


class Killer:
    """Kills this process before one of its writes.

    Args:
        folder: Whatever is written below it counts.
        kill_at: Before which write; 0 for none.
    """

    def __init__(self, folder: Path, kill_at: int) -> None:
        self._folder = folder
        self._kill_at = kill_at
        self.writes = 0

    def count(self) -> None:
        self.writes += 1
        if self.writes == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count what is written into databases, and what becomes of files, in this process from now on."""
        run = database.Database.run

        def counted(this: database.Database, statement: str, *parameters: object) -> Any:
            if statement.startswith(WRITES) and self._is_ours(this):
                self.count()
            return run(this, statement, *parameters)

        database.Database.run = counted  # type: ignore[assignment, method-assign]
        for name in ("replace", "hardlink_to", "unlink"):
            self._count_calls(Path, name)
        self._count_calls(os, "fsync")

    def _is_ours(self, this: database.Database) -> bool:
        row = this._connection.execute("PRAGMA database_list").fetchone()
        return str(row[2]).startswith(str(self._folder))

    def _count_calls(self, where: Any, name: str) -> None:
        function = getattr(where, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count()
            return function(*args, **kwargs)

        setattr(where, name, counted)


class Pool:
    """Keys of the pool from one on, so that a restart makes others than the life before it."""

    def __init__(self, first: int) -> None:
        self._pool = KeyPool()
        for _ in range(first):
            self._pool()

    def __call__(self, suite: Suite) -> RSAPrivateKey:
        return self._pool(suite)


class Life:
    """Alice and the device that is killed, Bob.

    Args:
        job: What to do: ``folder``, ``bundle``, ``name`` (what makes the usernames unique), ``kill_at``.
        first_key: Where in the pool their keys begin.
    """

    def __init__(self, job: dict[str, Any], first_key: int) -> None:
        self.folder = Path(job["folder"])
        self.alice, self.bob = f"alice-{job['name']}", f"bob-{job['name']}"
        self._bundle = Path(job["bundle"])
        self._generate = Pool(first_key)
        self.events: list[str] = []
        self.behind = 0

    @property
    def victim(self) -> Path:
        return self.folder / "victim"

    @property
    def old(self) -> Path:
        return self.victim / "old"

    @property
    def new(self) -> Path:
        return self.victim / "new"

    def log(self, *what: str) -> None:
        """Note what an application was told; on the disk at once, as the application's own database would."""
        with (self.folder / "log").open("a") as stream:
            stream.write(json.dumps(what) + "\n")

    def hear(self, event: Event) -> None:
        self.events.append(event.reason)

    async def open(self, profile: Path, clock: Callable[[], int]) -> Client:
        return await Client.open(
            profile,
            unlock=UNLOCK,
            bundle=self._bundle,
            clock=clock,
            on_event=self.hear,
            generate=self._generate,
            retries=Retries(backoff=Backoff(first=0.001, longest=0.01)),
        )

    def late(self) -> int:
        """Return Bob's time, which may be behind."""
        return START - self.behind

    async def send(self, client: Client, recipient: str, text: str) -> None:
        self.log("sending", recipient, text)
        await client.send(recipient, text)
        self.log("sent", recipient, text)

    async def _send_file(self, client: Client, recipient: str) -> None:
        self.log("sending", recipient, "file")
        await client.send_file(recipient, self.folder / "file")
        self.log("sent", recipient, "file")

    async def receive(self, client: Client) -> None:
        async for message in client.receive(follow=False):
            self.log("got", *await described(message))
            await client.set_handled(message)

    async def copies(self) -> list[list[str]]:
        """Return what Bob's tablet is handed out."""
        async with await self.open(self.folder / "tablet", lambda: START) as tablet:
            return [[message.text, message.copy_to or "-"] async for message in tablet.receive(follow=False)]

    def has_joined(self) -> bool:
        return (self.folder / "log").exists() and '["joined"]' in (self.folder / "log").read_text()

    async def story(self) -> None:
        """Enrol with a further device, send, receive, wait, rotate, send files, back up, renew, and move."""
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(await self.open(self.folder / "alice", lambda: START))
            await alice.enroll(self.alice)
            bob = await stack.enter_async_context(await self.open(self.old, self.late))
            await bob.enroll(self.bob)
            self.log("enrolled", str(bob.address))
            tablet = await stack.enter_async_context(await self.open(self.folder / "tablet", lambda: START))
            request = await tablet.join((await bob.invite()).text)
            self.log("asked", str(request.address))
            await bob.approve(request.text)
            await tablet.joined()
            self.log("joined")
            await self.send(alice, self.bob, "a1")
            await self.receive(bob)
            await self.send(bob, self.alice, "b1")
            await bob.rotate(self.alice)
            (self.folder / "file").write_bytes(bytes(FILE_BYTES))
            await self._send_file(alice, self.bob)
            await self._send_file(bob, self.alice)
            await self._wait(alice, bob)
            await bob.set_backup(self.victim / "a.backup", UNLOCK)
            self.log("backed up")
            await bob.renew()
            await self.send(bob, self.alice, "b2")
            await self.send(alice, self.bob, "a3")
            # What is still on its way, as the copy for the tablet may be, is not in the backup and would stay behind.
            await bob.flush()
        self.log("moving")
        restore_profile(self.victim / "a.backup", self.new, passphrase=UNLOCK, unlock=UNLOCK)
        async with await self.open(self.new, self.late) as again:
            self.log("moved")
            await self.send(again, self.alice, "b3")
            await self.receive(again)

    async def _wait(self, alice: Client, bob: Client) -> None:
        """Have a message wait until Bob's clock is right."""
        self.behind = 6 * MINUTE
        await self.send(alice, self.bob, "a2")
        await self.receive(bob)
        self.behind = 0
        await self.receive(bob)

    async def meet(self) -> dict[str, Any]:
        """Have both enrol."""
        async with (
            await self.open(self.folder / "alice", lambda: START) as alice,
            await self.open(self.old, self.late) as bob,
        ):
            await alice.enroll(self.alice)
            await bob.enroll(self.bob)
        return {}

    async def hand_over(self) -> dict[str, Any]:
        """Have Bob send a large message, a file and a message behind it, and die once all of it is kept."""
        async with await self.open(self.old, self.late) as bob:
            (self.folder / "file").write_bytes(bytes(LONG_FILE_BYTES))
            calls = [asyncio.create_task(self.send(bob, self.alice, LARGE))]
            await self._until_kept(bob, 1)
            calls.append(asyncio.create_task(self._send_file(bob, self.alice)))
            await self._until_kept(bob, 1 + PARTS_UNDER_WAY)
            calls.append(asyncio.create_task(self.send(bob, self.alice, "behind")))
            await self._until_kept(bob, 2 + PARTS_UNDER_WAY)
            os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.gather(*calls)
        return {}

    async def _until_kept(self, client: Client, count: int) -> None:
        """Wait until so many messages to Alice are in the outbox."""
        store = client._parts.context.store
        async with asyncio.timeout(KEPT_WITHIN):
            while len(await store.run(lambda opened: opened.outbox.to(self.alice, limit=count))) < count:
                pass

    async def poison(self) -> dict[str, Any]:
        """Have three messages wait for Bob, and the second kill him while he opens it."""
        async with (
            await self.open(self.folder / "alice", lambda: START) as alice,
            await self.open(self.old, self.late) as bob,
        ):
            await alice.enroll(self.alice)
            await bob.enroll(self.bob)
            for text in ("one", POISON, "two"):
                await alice.send(self.bob, text)
        return {}

    async def take(self) -> dict[str, Any]:
        """Have Bob receive what waits; say what he handled and was told."""
        async with await self.open(self.old, self.late) as bob:
            found = []
            async for message in bob.receive(follow=False):
                found.append(message.text)
                self.log("handling", message.text)
                if message.text == POISON:
                    os.kill(os.getpid(), signal.SIGKILL)
            kept = [one.reason for one in await bob.list_set_aside()]
        return {"texts": found, "events": self.events, "kept": kept}

    async def restart(self) -> dict[str, Any]:
        """Open what is left, have it act, and return what both find."""
        moved = (self.new / FILE_NAME).exists()
        async with (
            await self.open(self.folder / "alice", lambda: START) as alice,
            await self.open(self.new if moved else self.old, self.late) as bob,
        ):
            await alice.enroll(self.alice)
            address = await bob.enroll(self.bob)
            await bob.resume_files()
            await bob.send(self.alice, "probe")
            await alice.send(self.bob, "probe")
            found = {"alice": [await described(m) async for m in alice.receive(follow=False)]}
            found["bob"] = [await described(m) async for m in bob.receive(follow=False)]
            good = (await bob.keys(self.bob)).good_keys(START)
            await bob.flush()
        waiting = await self._left(self.new if moved else self.old)
        return {
            **found,
            "address": str(address),
            "good": [str(key.address) for key in good],
            "events": self.events,
            "copies": await self.copies() if self.has_joined() else None,
            "left": waiting,
        }

    async def _left(self, profile: Path) -> list[int]:
        client = await self.open(profile, self.late)
        try:
            return await client._parts.context.store.run(
                lambda store: [
                    len(each)
                    for each in (
                        store.waiting.page(),
                        store.set_aside.page(),
                        store.inbox.page_set_aside(),
                        store.outbox.page(),
                        store.transfers.all(),
                    )
                ]
            )
        finally:
            await client.close()


async def described(message: Received) -> list[str]:
    """Return the text of a message or that it is a file, its id, and whether it was handed out before."""
    return [message.text or "file", str(message.message_id), "again" if message.redelivered else "first"]


def kill_at_poison() -> None:
    """Kill this process while it opens the message that is poison to it."""
    open_it = negotiation.step_14_decrypt_message

    def opened(*args: Any) -> Any:
        content = open_it(*args)
        if content.message.body == POISON.encode():
            os.kill(os.getpid(), signal.SIGKILL)
        return content

    negotiation.step_14_decrypt_message = opened  # type: ignore[assignment]


def live(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in this process and return what it found."""
    life = Life(job, job["first_key"])
    if (tell := {"poison": life.poison, "meet": life.meet, "hand over": life.hand_over}.get(job["what"])) is not None:
        return asyncio.run(tell())
    if job["what"] in ("take", "take it in"):
        if job["what"] == "take it in":
            kill_at_poison()
        return asyncio.run(life.take())
    if job["what"] == "restart":
        return asyncio.run(life.restart())
    killer = Killer(life.victim, job["kill_at"])
    life.victim.mkdir(parents=True)
    killer.watch()
    asyncio.run(life.story())
    return {"writes": killer.writes}


def fork(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in a process of its own; one that is killed finds nothing."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        with os.fdopen(write, "w") as stream:
            json.dump(live(job), stream)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    return {"killed": os.WIFSIGNALED(status), "found": json.loads(answer) if answer else None}


def main() -> None:
    """Read jobs, one a line, and answer each by a line."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(fork(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
