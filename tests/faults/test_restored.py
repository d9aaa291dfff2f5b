"""Databases are lost and restored from backups, as docs/backups.md says, and people go on writing to each other."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from keypost_services.embedded.layout import SHAPES
from keypost_services.embedded.postgres import Postgres, find_programs
from keypost_services.embedded.processes import clean_environment
from keypost_services.embedded.servers import DATABASE
from support.faults.checking import GAP, LOST, find_differences
from support.faults.running import Outcome, Run
from support.faults.stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from support.faults.devices import DevicePart
    from support.faults.stack import Stack

PROCESSES = ("ca", "directory", "delivery")
AWAY = "bob-2"
"""A device that is not there while everything is lost."""


@dataclass
class Backup:
    """What an operator keeps elsewhere.

    Attributes:
        stack: Of what.
        folder: Where.
    """

    stack: Stack
    folder: Path

    @property
    def dump(self) -> Path:
        return self.folder / "keypost.dump"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    @property
    def url(self) -> str:
        return self._server.url_of(DATABASE)

    @property
    def _server(self) -> Postgres:
        port = self.stack.links["ca>postgres"].backends[0].port
        return Postgres(self.stack.folder / "postgres", port=port)

    def take(self) -> None:
        """Take a backup of the database and of the mailboxes, while everybody serves."""
        run(str(find_programs() / "pg_dump"), "--format=custom", f"--file={self.dump}", self.url)
        with redis.Redis(port=self.stack.links["ca>valkey"].backends[0].port) as valkey:
            valkey.config_set("auto-aof-rewrite-percentage", 0)
            assert not valkey.info("persistence")["aof_rewrite_in_progress"]
            shutil.copytree(self._mailboxes, self.folder / "mailboxes")

    def keep_audit_log(self) -> None:
        """Keep the newest audit log."""
        self.audit.write_text(ca("audit", "list", "--json", "--database", self.url))

    def restore(self) -> dict[str, object]:
        """Put the mailboxes in place, and the database into an empty one; make that fit to serve."""
        shutil.rmtree(self._mailboxes)
        shutil.copytree(self.folder / "mailboxes", self._mailboxes)
        psql = str(find_programs() / "psql")
        for statement in (f"DROP DATABASE {DATABASE}", f"CREATE DATABASE {DATABASE} TEMPLATE template0"):
            run(psql, "--quiet", "--command", statement, self._server.url)
        run(str(find_programs() / "pg_restore"), "--exit-on-error", f"--dbname={self.url}", str(self.dump))
        done = ca("after-restore", "--database", self.url, "--audit", str(self.audit), "--yes", "--json")
        facts: dict[str, object] = json.loads(done)
        return facts

    @property
    def _mailboxes(self) -> Path:
        return self.stack.folder / "valkey" / "appendonlydir"


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=clean_environment({}))
    assert done.returncode == 0, done.stderr
    return done.stdout


def ca(*arguments: str) -> str:
    return run(sys.executable, "-m", "keypost_services.ca", *arguments)


async def test_databases_are_lost_and_restored_and_everybody_goes_on(tmp_path: Path) -> None:
    outcome = Outcome(seed=0)
    async with running_stack(tmp_path / "run", SHAPES["postgres"], processes=PROCESSES, patient=True) as stack:
        (tmp_path / "kept").mkdir()
        backup = Backup(stack, tmp_path / "kept")
        traffic = Run(stack, random.Random(0), outcome, lambda _line: None)
        await traffic.begin()
        away = stack.devices[AWAY]
        await away.kill()
        before = await speak(stack)
        await asyncio.to_thread(backup.take)
        # What comes after the backup: keys that the restored database does not know, and messages.
        for device in present(stack):
            await device.do("renew")
        after = await speak(stack)
        await asyncio.to_thread(backup.keep_audit_log)
        await lose(stack)
        facts = await restore(stack, backup)
        assert facts["entries_redone"] == len(present(stack))
        await away.start()
        for device in present(stack):
            await device.begin_traffic(**(device.traffic or {}))
        await traffic.flowing("after the restore", time.monotonic())
        await traffic.finish()
        journals = [device.journal for device in stack.devices.values()]
    differences = find_differences(journals, copies=True)
    kinds = Counter(difference.kind for difference in differences)
    assert {difference.device for difference in differences} == {AWAY}, differences
    # Lost is what came after the backup and was not fetched: no more, and the device is told.
    senders = len(present(stack))
    assert kinds == {LOST: sum(after.values()) - sum(before.values()), GAP: senders}, differences
    assert kinds[LOST] >= senders


def present(stack: Stack) -> list[DevicePart]:
    """Return the devices that are there all the time."""
    return [device for name, device in stack.devices.items() if name != AWAY]


async def speak(stack: Stack) -> dict[tuple[str, str], int]:
    """Have everybody who is there write, then fall silent; return the number of the last message of each to whom.

    Everything is received by whoever is there.
    """
    devices = present(stack)
    for device in devices:
        await device.begin_traffic(**(device.traffic or {}))
    last = await asyncio.gather(*(device.do("pause") for device in devices))
    numbers = {
        (device.name, to): number for device, sent in zip(devices, last, strict=True) for to, number in sent.items()
    }

    def missing() -> list[str]:
        return [
            f"{sender} at {receiver.name}"
            for (sender, to), number in numbers.items()
            for receiver in devices
            if receiver.name != sender and receiver.got_number.get((sender, to), 0) < number
        ]

    await stack.bell.until("what was said", missing, 60)
    return numbers


async def lose(stack: Stack) -> None:
    """Lose every process but PostgreSQL's, whose database goes."""
    for name in (*reversed(PROCESSES), "valkey"):
        await stack.servers[name].kill()


async def restore(stack: Stack, backup: Backup) -> dict[str, object]:
    """Restore both stores, then start everything; return what ``after-restore`` said."""
    facts = await asyncio.to_thread(backup.restore)
    for name in ("valkey", *PROCESSES):
        await stack.servers[name].start()
    return facts
