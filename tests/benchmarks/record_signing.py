"""What records cost the CA, in CPU time (docs/operations.md, "What signing costs"): ``make bench``.

It is the CPU time of this process, not the time on the clock: others may use the machine meanwhile. Of several rounds
the middle one counts, unless who measures chooses otherwise.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import sha256
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.suites import STRONG
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.convert import recorded_key
from keypost_services.ca.database import open_store
from keypost_services.ca.policy import Policy
from keypost_services.ca.records import Records
from keypost_services.ca.store import Change, EventDraft, RecordedKey, User
from keypost_services.ca.trust.realm import Realm, ServedRealm
from keypost_services.ca.trust.signing import LocalSigner
from support.clock import START
from support.realm import LIFETIME, SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from keypost_services.ca.store import Store

KEYS = (1, 5, 20)
"""How many keys the record has: one a device, and those that were replaced within the retention."""
ROUNDS, RECORDS_A_ROUND = 31, 50
USERS = 100
"""As many as a directory may ask for at once."""


@dataclass(frozen=True)
class Rounds:
    """How often a figure is measured, and which of what was measured counts."""

    number: int = ROUNDS
    choose: Callable[[Sequence[float]], float] = statistics.median


@dataclass
class Bench:
    """A realm, and one key of the strong suite that stands for all: of what is signed, the size matters."""

    realm: SimulatedRealm
    key: RecordedKey

    @classmethod
    def make(cls) -> Bench:
        realm = SimulatedRealm()
        pair = realm.new_pair(realm.new_address("alice"), STRONG)
        request = read_key_request(realm.signed_request(pair, pb.KEY_REQUEST_KIND_ENROLL))
        return cls(realm, recorded_key(request, START))

    def records(self, store: Store | None = None) -> Records:
        served = ServedRealm(Realm(self.realm.trust(), signers=(LocalSigner(self.realm.record_signer),)))
        return Records(store, served, Policy(self.realm.constants, LIFETIME), lambda: START)  # type: ignore[arg-type]

    async def fill(self, store: Store) -> list[str]:
        names = [f"user{number}" for number in range(USERS)]
        for name in names:
            key = replace(self.key, username=name, fingerprint=sha256(name.encode()))
            enrolled = (EventDraft(pb.KEY_EVENT_KIND_ENROLLED, key.fingerprint),)
            await store.apply(Change(name, 1, 1, START, enrolled, Actor(ActorKind.SIGN_IN, "code"), key=key))
        return names


async def cpu_milliseconds(work: Callable[[], Awaitable[object]], times: int, rounds: Rounds) -> float:
    """Return the CPU time of doing a piece of work once."""
    measured = []
    for _ in range(rounds.number):
        begin = time.process_time()
        for _ in range(times):
            await work()
        measured.append((time.process_time() - begin) / times * 1_000)
    return rounds.choose(measured)


async def signing(bench: Bench, keys: int, rounds: Rounds) -> dict[str, float]:
    """Return what signing the record of a user with so many keys costs, and its size in bytes."""
    records, user = bench.records(), User("alice", 1, keys, (bench.key,) * keys)
    size = (await records.sign(user)).ByteSize()
    return {
        "cpu_milliseconds": round(await cpu_milliseconds(lambda: records.sign(user), RECORDS_A_ROUND, rounds), 3),
        "bytes": size,
    }


async def looking_up(bench: Bench, rounds: Rounds) -> float:
    """Return what a record costs in a look-up of a hundred users: read from SQLite, signed, serialised."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{Path(folder) / 'ca.db'}") as store:
            records, names = bench.records(store), await bench.fill(store)

            async def look_up() -> None:
                for key_info in (await records.find(names)).values():
                    key_info.SerializeToString()

            return await cpu_milliseconds(look_up, 3, rounds) / USERS


async def measure(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Return all figures, by what was measured."""
    bench = Bench.make()
    figures = {f"sign, {keys} keys": await signing(bench, keys, rounds) for keys in KEYS}
    cpu = await looking_up(bench, rounds)
    return {**figures, f"look up, {USERS} users at once": {"cpu_milliseconds": round(cpu, 3)}}
