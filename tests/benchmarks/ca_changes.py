"""How many changes a second CAs make together on one PostgreSQL: ``PYTHONPATH=tests python -m benchmarks.ca_changes``.

One row orders all changes (docs/adr/0025-postgresql.md), so replicas share what it allows. Each replica is a process
with a pool of its own that enrols users, so many at once; what is measured is the store's transaction alone, with
fsync, on a server of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.record_signing import Bench
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import sha256
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.engine import open_engine
from keypost_services.ca.store import Change, EventDraft
from keypost_services.ca.store_sql import SqlStore
from support.ca_database import postgres_database
from support.clock import START
from support.postgres import running_postgres

if TYPE_CHECKING:
    from keypost_services.ca.store import Store

CHANGES, AT_ONCE = 200, 8
"""Of each replica."""
REPLICAS = (1, 3)


async def change(store: Store, bench: Bench, username: str) -> None:
    """Enrol a user: the record, the key, the event and the entry of the audit log, in one transaction."""
    key = replace(bench.key, username=username, fingerprint=sha256(username.encode()))
    enrolled = (EventDraft(pb.KEY_EVENT_KIND_ENROLLED, key.fingerprint),)
    await store.apply(Change(username, 1, 1, START, enrolled, Actor(ActorKind.SIGN_IN, "code"), key=key))


async def replica(url: str, name: str) -> None:
    """Make the changes of one replica once it is told to begin; say when they are made."""
    bench, engine = Bench.make(), open_engine(url, connections=AT_ONCE)
    store = SqlStore(engine)
    await change(store, bench, f"{name}-first")
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    names = iter([f"{name}-{number}" for number in range(CHANGES)])

    async def worker() -> None:
        for username in names:
            await change(store, bench, username)

    begun = time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    print(f"{(time.process_time() - begun) / CHANGES * 1_000:.1f}")
    await engine.dispose()


def rate(url: str, replicas: int) -> tuple[float, float]:
    """Return how many changes a second so many replicas make together, and the CPU ms of a replica for one."""
    command = [sys.executable, "-m", "benchmarks.ca_changes", url]
    processes = [
        subprocess.Popen([*command, f"r{number}of{replicas}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(replicas)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    begun = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    cpu = []
    for process in processes:
        cpu.append(float(process.communicate()[0]))
        if process.returncode:
            raise RuntimeError("a replica failed")
    return replicas * CHANGES / (time.perf_counter() - begun), max(cpu)


def main() -> None:
    """Print the rate of each number of replicas."""
    with running_postgres() as server, postgres_database(server) as name:
        for replicas in REPLICAS:
            changes, cpu = rate(server.serving_url(name), replicas)
            print(f"{replicas} replicas: {changes:.0f} changes/s, {cpu:.1f} ms of a replica's CPU each")


if __name__ == "__main__":
    if arguments := sys.argv[1:]:
        asyncio.run(replica(*arguments))
    else:
        main()
