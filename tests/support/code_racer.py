"""A process that uses one-time codes up, as fast as another one does.

``code_racer.py DATABASE NAME ROUNDS`` writes a line when it is ready and waits for one; then, for each round, it has a
key of a user of its own recorded by the code of that round, and writes the numbers of the rounds that it won.
"""

from __future__ import annotations

import asyncio
import json
import sys

from keypost.protocol.encoding import sha256
from keypost_services.ca.engine import open_engine
from keypost_services.ca.store import CodeUsedError
from keypost_services.ca.store_sql import SqlStore
from support.ca_changes import change, key


def hash_of_round(number: int) -> bytes:
    """Return what is kept of the code of a round."""
    return sha256(f"code {number}".encode())


async def race(database: str, name: str, rounds: int) -> list[int]:
    engine, won = open_engine(database), []
    store = SqlStore(engine)
    await store.newest_sequence()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    for number in range(rounds):
        entering = key(0, f"{name}{number}", fingerprint=sha256(f"{name} {number}".encode()))
        try:
            await store.apply(change(entering, code_hash=hash_of_round(number)))
        except CodeUsedError:
            continue
        won.append(number)
    await engine.dispose()
    return won


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(race(sys.argv[1], sys.argv[2], int(sys.argv[3])))) + "\n")
