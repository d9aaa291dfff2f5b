"""Make ``data.tar.xz``: what the previous version leaves behind when it is stopped in the middle of everything.

    PYTHONPATH=tests .venv/bin/python tests/upgrade/make_data.py

runs the stored code of that version (``previous.tar.xz``) in this interpreter, lets people talk, and packs what then
lies on the disk. All of it happens at ``START`` and shortly after, by the clock that services and clients are given:
nothing in it expires by the calendar. Valkey's own lifetimes are moved to the year 2100 for the same reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from keypost.clock import MINUTE
from keypost.errors import KeypostError
from keypost_services.embedded.processes import clean_environment
from support import previous
from support.clock import ManualClock
from support.faults.proxy import Backend, Link
from support.stored_data import BACKUP, FILE, FILE_NAME, Texts
from support.whole import Whole, open_whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost.client import Client

YEAR_2100 = 4_102_444_800_000
LONG = 60
FILES = ("realm", "ca.db", "valkey", "people", "backups")


async def make(folder: Path) -> None:
    """Let people talk in ``folder`` and leave there what is to be stored."""
    async with asyncio.timeout(LONG), open_whole(folder, ManualClock()) as whole:
        await People(whole).live()
    with sqlite3.connect(folder / "ca.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.rmtree(folder / "valkey")
    (folder / "mailboxes").rename(folder / "valkey")


class People:
    """Who lives in the data, and what happens to them; each waiting state is left by an event, not by a delay."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self._backups = whole.folder / "backups"
        self._backups.mkdir()
        self._clients: dict[str, Client] = {}

    async def live(self) -> None:
        """Do everything in an order in which no state is disturbed by a later one."""
        for name in ("alice", "bob", "carol", "dave"):
            self._clients[name] = await self._whole.open(name)
            await self._clients[name].enroll(name)
        await self._have_sessions()
        await self._have_devices()
        await self._have_backups()
        await self._leave_waiting()
        await self._leave_not_yet()
        await self._leave_answer_lost()
        await self._leave_unacknowledged()
        await self._leave_unsent()

    async def _have_sessions(self) -> None:
        alice, bob = self._clients["alice"], self._clients["bob"]
        await alice.send("bob", "hello")
        assert await _texts(bob) == ["hello"]
        await bob.send("alice", "hello yourself")
        assert await _texts(alice) == ["hello yourself"]
        await bob.set_verified("alice", (await alice.safety_number("bob")).digits)
        self._pass_time()
        await alice.renew()

    async def _have_devices(self) -> None:
        """Give Alice a tablet that is good, and a telephone that is lost."""
        alice = self._clients["alice"]
        for name in ("tablet", "telephone"):
            device = self._clients[name] = await self._whole.open(name)
            await alice.approve((await device.join((await alice.invite()).text)).text)
            await device.joined()
        lost = self._clients["telephone"].address
        assert lost is not None
        await alice.revoke(lost.device_id, "lost")

    async def _have_backups(self) -> None:
        await self._clients["bob"].backup(self._backups / "bob.backup", BACKUP)
        await self._clients["carol"].set_backup(self._backups / "carol.backup", BACKUP)

    async def _leave_waiting(self) -> None:
        """Leave messages for Carol, who is away: the first one sealed to a key that she has renewed since."""
        first, *others = Texts.WAITING
        await self._clients["alice"].send("carol", first)
        self._pass_time()
        await self._clients["carol"].renew()
        for text in others:
            self._pass_time()
            await self._clients["bob"].send("carol", text)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE_NAME
            path.write_bytes(FILE)
            await self._clients["alice"].send_file("carol", path)

    async def _leave_not_yet(self) -> None:
        """Leave a message with Dave that he cannot open yet: the directory is away, and he does not know the sender."""
        await self._clients["bob"].send("dave", Texts.NOT_YET)
        await self._whole.stop("directory")
        assert await _texts(self._clients["dave"]) == []
        await self._whole.start("directory")

    async def _leave_answer_lost(self) -> None:
        """Leave a message of the tablet that is stored, and of which the tablet does not know that it is."""
        async with Link("tablet>delivery", [Backend("delivery", self._whole.port("delivery"))]) as link:
            bundle = self._whole.write_bundle(delivery=link.target)
            await self._clients["tablet"].close()
            tablet = self._clients["tablet"] = await self._whole.open("tablet", bundle=bundle)
            # What it knows of both users is new, and its connection stands: the next call is the one that stores.
            await asyncio.gather(tablet.keys("alice"), tablet.keys("carol"), tablet.waiting_elsewhere())
            before = await self._stored()
            link.mute()
            sending = asyncio.create_task(tablet.send("carol", Texts.ANSWER_LOST))
            await _until(lambda: self._stored_more_than(before))
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await tablet.close()
        self._whole.write_bundle()

    async def _leave_unacknowledged(self) -> None:
        """Leave Bob's mailbox as it was before he acknowledged what is in his inbox; one message was handed out."""
        for text in Texts.UNACKNOWLEDGED:
            await self._clients["alice"].send("bob", text)
        listening = self._clients["dave"].receive()
        waits = asyncio.create_task(anext(listening))
        await _until(lambda: self._found("receiver"))
        await self._keep_mailboxes()
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        messages = self._clients["bob"].receive()
        received = [await anext(messages) for _ in range(Texts.HANDLED + 1)]
        assert [message.text for message in received] == list(Texts.UNACKNOWLEDGED[: Texts.HANDLED + 1])
        await messages.aclose()

    async def _leave_unsent(self) -> None:
        await self._whole.stop("delivery")
        with contextlib.suppress(KeypostError):
            await self._clients["alice"].send("bob", Texts.UNSENT)
        for client in self._clients.values():
            await client.close()
        await self._whole.start("delivery")

    async def _keep_mailboxes(self) -> None:
        """Copy the append-only file as it is now: what comes later in the mailboxes is not in the data."""
        async with Redis.from_url(self._whole.valkey.url) as client:
            async for key in client.scan_iter():
                await client.pexpireat(key, YEAR_2100)
        shutil.copytree(self._whole.folder / "valkey", self._whole.folder / "mailboxes")

    async def _found(self, part: str) -> list[bytes]:
        async with Redis.from_url(self._whole.valkey.url) as client:
            return [key async for key in client.scan_iter(match=f"keypost:*:{part}")]

    async def _stored(self) -> int:
        return len(await self._found("seen:*"))

    async def _stored_more_than(self, before: int) -> bool:
        return await self._stored() > before

    def _pass_time(self) -> None:
        self._whole.clock.advance(MINUTE)


async def _texts(client: Client) -> list[str]:
    return [message.text async for message in client.receive(follow=False)]


async def _until(condition: Callable[[], Awaitable[object]]) -> None:
    while True:
        if await condition():
            return
        await asyncio.sleep(0.01)


def pack(folder: Path, archive: Path) -> None:
    """Pack what is to be stored, without owners."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return None if member.name.endswith((".lock", ".log")) else member

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for name in FILES:
            packed.add(folder / name, name, filter=anonymous)


def main() -> None:
    """Run this file with the previous version's code; there, make the data and pack it."""
    if len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as folder:
            code = previous.unpack(previous.CODE, Path(folder))
            command = previous.python(__file__, str(previous.DATA))
            subprocess.run(command, env=clean_environment(previous.python_path(code)), check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make(Path(folder)))
        pack(Path(folder), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
