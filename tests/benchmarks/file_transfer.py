"""How fast one device sends another a file, and how much memory each of the two takes for it.

``PYTHONPATH=tests python tests/benchmarks/file_transfer.py [MiB]``: real services, each a process, on this machine; the
durability is the default. Sender and receiver are processes of their own and run at the same time. What is measured is
the whole of ``send_file`` and of receiving: hashing, sealing, storing, opening, both key stores, reading it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from keypost.client import Client
from keypost.keystore.unlock import Argon2Cost, Passphrase
from support.stack import running_stack

UNLOCK = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))
MIBIBYTE = 1024 * 1024


async def open_client(folder: Path, name: str, bundle: Path) -> Client:
    """Open the profile of a user, enrolled."""
    client = await Client.open(folder / name, unlock=UNLOCK, bundle=bundle)
    await client.enroll(name)
    return client


async def send(folder: Path, bundle: Path) -> int:
    """Send the file, and return its size."""
    async with await open_client(folder, "alice", bundle) as alice:
        return (await alice.send_file("bob", folder / "file")).size


async def receive(folder: Path, bundle: Path) -> int:
    """Receive the file, check it, and return its size."""
    async with await open_client(folder, "bob", bundle) as bob:
        async for message in bob.receive():
            if (file := message.file) is not None:
                digest = hashlib.sha256()
                async for chunk in file.chunks():
                    digest.update(chunk)
                if digest.digest() == file.sha256:
                    return file.size
    raise AssertionError


def work(what: str, folder: str, bundle: str) -> None:
    """Do one side of it in this process, and say how long it took and what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    size = asyncio.run({"send": send, "receive": receive}[what](Path(folder), Path(bundle)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = {"MiB/s": round(size / MIBIBYTE / wall, 1), "seconds": round(wall, 1), "CPU seconds": round(cpu, 1)}
    memory = {"peak MiB": round(peak / 1024), "of which before MiB": round(before / 1024)}
    sys.stdout.write(json.dumps({what: rate | memory}) + "\n")


async def both(folder: Path, bundle: Path) -> None:
    """Enrol both, then let each do its part."""
    for name in ("alice", "bob"):
        await (await open_client(folder, name, bundle)).close()
    sides = [
        await asyncio.create_subprocess_exec(sys.executable, __file__, what, str(folder), str(bundle))
        for what in ("receive", "send")
    ]
    for side in sides:
        await side.wait()


def main(mibibytes: int = 200) -> None:
    """Start the services, measure, stop them."""
    with tempfile.TemporaryDirectory() as name, running_stack(Path(name) / "stack") as running:
        folder = Path(name)
        with (folder / "file").open("wb") as file:
            for _ in range(mibibytes):
                file.write(os.urandom(MIBIBYTE))
        asyncio.run(both(folder, running.layout.bundle))


if __name__ == "__main__":
    if sys.argv[1:2] in (["send"], ["receive"]):
        work(*sys.argv[1:])
    else:
        main(*map(int, sys.argv[1:]))
