"""Two clients that talk, close and are forgotten, while another process looks into this one's memory.

``closing_child.py FOLDER PASSPHRASE-FILE`` writes a line at each stage and waits for one: ``open``, ``closed``,
``collected``. At ``collected`` it says how many private keys and ciphers are still alive as objects.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keypost.client import Client
from keypost.keystore import Argon2Cost, Passphrase
from support.clock import ManualClock
from support.realm import SimulatedRealm
from support.simulation import Services, serving
from support.tls import issue_tls

CHEAP = Argon2Cost(memory=64, iterations=1, lanes=1)


async def stage(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)


def alive() -> int:
    """Return how many private keys and ciphers are held by anything that the collector knows."""
    held = (one for tracked in gc.get_objects() for one in gc.get_referents(tracked))
    return len({id(one) for one in held if isinstance(one, RSAPrivateKey | AESGCM)})


async def talk(folder: Path, passphrase: str) -> None:
    clock, tls = ManualClock(), issue_tls()
    async with serving(Services(SimulatedRealm(clock=clock)), tls) as services:
        bundle = services.bundle(tls)
        alice, bob = [
            await Client.open(folder / name, unlock=Passphrase(passphrase, CHEAP), bundle=bundle, clock=clock)
            for name in ("alice", "bob")
        ]
        await alice.enroll("alice")
        await bob.enroll("bob")
        for number in range(20):
            await alice.send("bob", f"message {number}")
            await bob.send("alice", f"answer {number}") if number == 10 else None
            assert [message async for message in bob.receive(follow=False)]
        await stage("open", alive())
        await alice.close()
        await bob.close()
        await stage("closed", alive())
        del alice, bob
        gc.collect()
        await stage("collected", alive())


if __name__ == "__main__":
    asyncio.run(talk(Path(sys.argv[1]), Path(sys.argv[2]).read_text()))
