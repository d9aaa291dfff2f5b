"""How many messages a second the SDK of one device sends to another: one after the other, and many calls at once.

``PYTHONPATH=tests python tests/benchmarks/sdk_sending.py [messages] [bytes] [at once]``: real services, each a process,
on this machine; the durability is the default. What is measured is the whole of ``send``: outbox, sealing, delivery's
answer. Nobody receives meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.client import Client
from keypost.keystore.unlock import Argon2Cost, Passphrase
from support.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

UNLOCK = Passphrase("correct horse", Argon2Cost(memory=64, iterations=1, lanes=1))


async def measured(name: str, count: int, work: Callable[[], Awaitable[object]]) -> None:
    """Print how long so many messages took, on the clock and of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sys.stdout.write(f"{name}: {count / wall:,.0f} messages/s; {1e3 * cpu / count:.2f} ms of CPU a message\n")


async def measure(bundle: Path, folder: Path, count: int, size: int, at_once: int) -> None:
    """Measure both ways to send."""
    body = bytes(size)
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("alice", "bob"):
            client = await stack.enter_async_context(await Client.open(folder / name, unlock=UNLOCK, bundle=bundle))
            await client.enroll(name)
            clients.append(client)
        alice = clients[0]
        await alice.send("bob", "hello")

        async def one_after_the_other() -> None:
            for _ in range(count // 10):
                await alice.send("bob", body)

        async def many() -> None:
            room = asyncio.Semaphore(at_once)

            async def one() -> None:
                async with room:
                    await alice.send("bob", body)

            await asyncio.gather(*(one() for _ in range(count)))

        await measured("one after the other", count // 10, one_after_the_other)
        await measured(f"{at_once} at once", count, many)


def main(count: int = 4000, size: int = 800, at_once: int = 256) -> None:
    """Start the services, measure, stop them."""
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder) / "stack") as running:
        asyncio.run(measure(running.layout.bundle, Path(folder), count, size, at_once))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
