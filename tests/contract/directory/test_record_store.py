"""What every RecordStore keeps to: in process memory, in Redis, and behind the guard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keypost.clock import HOUR, MINUTE
from keypost_services.directory.store_guarded import GuardedStore
from keypost_services.directory.store_process import ProcessStore
from keypost_services.directory.store_redis import RedisStore
from keypost_services.runtime.breaker import Breaker
from keypost_services.runtime.redis import redis_client
from support.clock import ManualClock
from support.directory import Ears, new_verifier
from support.realm import REALM, SimulatedRealm
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from keypost_services.directory.look_up.ports import RecordStore


@dataclass
class Bench:
    clock: ManualClock
    realm: SimulatedRealm
    store: RecordStore

    async def revision(self, username: str) -> int | None:
        """Return the revision that is kept of the user."""
        record = (await self.store.get_many([username])).get(username)
        return None if record is None else record.revision


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(params=["process", "redis", "guarded"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    clock = ManualClock()
    realm = SimulatedRealm(clock)
    if request.param == "process":
        yield Bench(clock, realm, ProcessStore(clock, most_bytes=1_000_000))
        return
    redis = redis_client(request.getfixturevalue("valkey").url)
    await redis.flushall()
    verifier = new_verifier(realm, clock)
    store = RedisStore(redis, verifier, clock, realm=REALM, timeout_ms=5_000)
    guarded = GuardedStore(store, store, Breaker(clock, 1_000), Ears())
    yield Bench(clock, realm, store if request.param == "redis" else guarded)
    await redis.aclose()


async def test_what_is_kept_is_found(bench: Bench) -> None:
    for username in ("alice", "bob"):
        bench.realm.enroll(username)
    records = {username: bench.realm.key_record(username) for username in ("alice", "bob")}
    await bench.store.put_many(list(records.values()))
    found = await bench.store.get_many(["alice", "bob", "carol"])
    assert found == records
    assert found["alice"].key_info == records["alice"].key_info


async def test_nothing_is_asked_and_nothing_is_found(bench: Bench) -> None:
    assert await bench.store.get_many(["alice"]) == {}
    await bench.store.put_many([])
    await bench.store.drop_many({})
    await bench.store.drop_all()


async def test_an_older_revision_never_replaces_a_newer(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    old = bench.realm.key_record("alice")
    bench.realm.renew(pair)
    await bench.store.put_many([bench.realm.key_record("alice")])
    await bench.store.put_many([old])
    assert await bench.revision("alice") == 2


async def test_at_one_revision_the_newer_statement_is_kept(bench: Bench) -> None:
    bench.realm.enroll("alice")
    old = bench.realm.key_record("alice")
    bench.clock.advance(MINUTE)
    new = bench.realm.key_record("alice")
    for record in (old, new, old):
        await bench.store.put_many([record])
    assert (await bench.store.get_many(["alice"]))["alice"].this_update == new.this_update


async def test_what_is_past_its_next_update_is_not_found(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.store.put_many([bench.realm.key_record("alice")])
    bench.clock.advance(HOUR - 1)
    assert await bench.revision("alice") == 1
    bench.clock.advance(1)
    assert await bench.revision("alice") is None


async def test_what_was_dropped_is_not_found(bench: Bench) -> None:
    for username in ("alice", "bob"):
        bench.realm.enroll(username)
        await bench.store.put_many([bench.realm.key_record(username)])
    await bench.store.drop_many({"alice": 2})
    assert await bench.revision("alice") is None
    assert await bench.revision("bob") == 1


async def test_a_slow_reader_cannot_write_back_what_was_dropped(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    slow = bench.realm.key_record("alice")
    await bench.store.drop_many({"alice": 2})
    await bench.store.put_many([slow])
    assert await bench.revision("alice") is None
    bench.realm.renew(pair)
    await bench.store.put_many([bench.realm.key_record("alice")])
    assert await bench.revision("alice") == 2


async def test_a_late_drop_leaves_the_record_that_it_announced(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.store.put_many([bench.realm.key_record("alice")])
    await bench.store.drop_many({"alice": 1})
    assert await bench.revision("alice") == 1


async def test_a_floor_is_never_lowered(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.store.drop_many({"alice": 3})
    await bench.store.drop_many({"alice": 1})
    await bench.store.put_many([bench.realm.key_record("alice")])
    assert await bench.revision("alice") is None


async def test_dropping_everything_forgets_records_and_floors(bench: Bench) -> None:
    for username in ("alice", "bob"):
        bench.realm.enroll(username)
    await bench.store.put_many([bench.realm.key_record("alice")])
    await bench.store.drop_many({"bob": 9})
    await bench.store.drop_all()
    assert await bench.revision("alice") is None
    await bench.store.put_many([bench.realm.key_record("bob")])
    assert await bench.revision("bob") == 1
