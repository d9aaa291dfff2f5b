"""What comes out of Redis is believed only as far as it proves itself; and Redis may be away."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR, MINUTE
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost_services.directory.look_up.ports import StoreAwayError
from keypost_services.directory.store_guarded import MOST_MISSED, GuardedStore
from keypost_services.directory.store_redis import PREFIX_DIGITS, RedisStore
from keypost_services.runtime.breaker import Breaker
from keypost_services.runtime.gathering import MOST_BATCHES
from keypost_services.runtime.redis import redis_client
from support.clock import ManualClock
from support.directory import Ears, new_metrics, new_verifier
from support.realm import REALM, SimulatedRealm, seeded_signer
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from keypost.keys.v1 import key_info_pb2
    from keypost_services.directory.metrics import Metrics

ALICE = f"kd:{REALM}:r:alice"
SEQUENCE = f"kd:{REALM}:sequence"


@dataclass
class Bench:
    server: ValkeyServer
    redis: Any
    clock: ManualClock
    realm: SimulatedRealm
    metrics: Metrics
    store: RedisStore

    def refused(self, reason: str) -> float:
        count: float = self.metrics.refused.labels(source="redis", reason=reason)._value.get()
        return count

    def guarded(self, pause_ms: int = 1_000) -> tuple[GuardedStore, Ears]:
        ears = Ears()
        return GuardedStore(self.store, self.store, Breaker(self.clock, pause_ms), ears), ears


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey", appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
async def bench(server: ValkeyServer) -> AsyncIterator[Bench]:
    clock = ManualClock()
    realm, metrics, redis = SimulatedRealm(clock), new_metrics(), redis_client(server.url)
    store = RedisStore(redis, new_verifier(realm, clock, metrics), clock, realm=REALM, timeout_ms=2_000)
    yield Bench(server, redis, clock, realm, metrics, store)
    await redis.aclose()


def forged(realm: SimulatedRealm) -> key_info_pb2.KeyInfo:
    """A record that somebody else signed, who names the realm's key."""
    key_info = realm.key_info("alice")
    realm.record_signer, honest = seeded_signer(66), realm.record_signer
    key_info.record.signature = realm.key_info("alice").record.signature
    realm.record_signer = honest
    return key_info


def tampered(realm: SimulatedRealm) -> key_info_pb2.KeyInfo:
    key_info = realm.key_info("alice")
    key_info.record.user_keys = realm.statement("alice", revision=9).SerializeToString()
    return key_info


def of_another_user(realm: SimulatedRealm) -> key_info_pb2.KeyInfo:
    realm.enroll("mallory")
    return realm.key_info("mallory")


def expired(realm: SimulatedRealm) -> key_info_pb2.KeyInfo:
    key_info = realm.key_info("alice")
    assert isinstance(realm.clock, ManualClock)
    realm.clock.advance(HOUR)
    return key_info


def of_an_unknown_record_key(realm: SimulatedRealm) -> key_info_pb2.KeyInfo:
    realm.record_signer, honest = seeded_signer(66), realm.record_signer
    key_info = realm.key_info("alice")
    realm.record_signer = honest
    return key_info


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (forged, "SIGNATURE_INVALID"),
        (tampered, "SIGNATURE_INVALID"),
        (of_another_user, "RECORD_REFUSED"),
        (expired, "RECORD_EXPIRED"),
        (of_an_unknown_record_key, "UNKNOWN_RECORD_KEY"),
    ],
)
async def test_a_record_that_does_not_verify_is_dropped_and_counted(
    bench: Bench, make: Callable[[SimulatedRealm], key_info_pb2.KeyInfo], reason: str
) -> None:
    bench.realm.enroll("alice")
    prefix = b"%020d%020d" % (1, bench.clock())
    await bench.redis.set(ALICE, prefix + make(bench.realm).SerializeToString())
    assert await bench.store.get_many(["alice"]) == {}
    assert bench.refused(reason) == 1
    assert await bench.redis.get(ALICE) is None


@pytest.mark.parametrize(
    "garbage",
    [b"", b"x", b"\xff" * 1_000, b"9" * PREFIX_DIGITS + b"\xff\xff\xff", b"0" * PREFIX_DIGITS + b"\x0a"],
)
async def test_garbage_is_dropped_and_does_not_keep_the_place(bench: Bench, garbage: bytes) -> None:
    bench.realm.enroll("alice")
    await bench.redis.set(ALICE, garbage)
    assert await bench.store.get_many(["alice"]) == {}
    await bench.store.put_many([bench.realm.key_record("alice")])
    assert list(await bench.store.get_many(["alice"])) == ["alice"]


async def test_what_is_no_prefix_does_not_keep_the_place_even_unread(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.redis.set(ALICE, b"\xff" * 1_000)
    await bench.store.put_many([bench.realm.key_record("alice")])
    assert list(await bench.store.get_many(["alice"])) == ["alice"]


async def test_a_prefix_that_is_not_the_records_is_garbage(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.redis.set(ALICE, b"9" * PREFIX_DIGITS + bench.realm.key_info("alice").SerializeToString())
    assert await bench.store.get_many(["alice"]) == {}
    assert bench.refused("MALFORMED_STATEMENT") == 1


async def test_every_key_has_a_lifetime(bench: Bench) -> None:
    bench.realm.enroll("alice")
    record = bench.realm.key_record("alice")
    bench.clock.advance(10 * MINUTE)
    await bench.store.put_many([record])
    assert await bench.redis.pttl(ALICE) <= record.next_update - bench.clock()
    await bench.store.drop_many({"bob": 2})
    assert 0 < await bench.redis.pttl(f"kd:{REALM}:r:bob") <= HOUR + CLOCK_SKEW
    await bench.store.advance(7)
    assert 0 < await bench.redis.pttl(SEQUENCE) <= HOUR + CLOCK_SKEW


async def test_a_record_that_is_over_is_not_written(bench: Bench) -> None:
    bench.realm.enroll("alice")
    record = bench.realm.key_record("alice")
    bench.clock.advance(HOUR)
    await bench.store.put_many([record])
    assert await bench.redis.exists(ALICE) == 0


async def test_the_position_only_advances(bench: Bench) -> None:
    assert await bench.store.read() is None
    for sequence in (3, 7, 5):
        await bench.store.advance(sequence)
    assert await bench.store.read() == 7
    await bench.store.drop_all()
    assert await bench.store.read() is None


@pytest.mark.parametrize("garbage", [b"", b"x", b"-1", b"nan", b"inf", b"1e9", b"9" * 30, b"9" * 5_000])
async def test_a_garbled_position_is_none_and_is_overwritten(bench: Bench, garbage: bytes) -> None:
    await bench.redis.set(SEQUENCE, garbage)
    assert await bench.store.read() is None
    if garbage != b"1e9":
        await bench.store.advance(5)
        assert await bench.store.read() == 5


async def test_a_value_of_another_type_is_none_and_is_overwritten(bench: Bench) -> None:
    for key in (ALICE, SEQUENCE):
        await bench.redis.rpush(key, "x")
    bench.realm.enroll("alice")
    assert await bench.store.get_many(["alice"]) == {}
    assert await bench.store.read() is None
    await bench.store.put_many([bench.realm.key_record("alice")])
    await bench.store.advance(5)
    assert list(await bench.store.get_many(["alice"])) == ["alice"]
    assert await bench.store.read() == 5


async def test_dropping_everything_leaves_what_is_not_the_directorys(bench: Bench) -> None:
    await bench.redis.set("else", "where")
    await bench.redis.mset({f"kd:{REALM}:r:user{number}": "x" for number in range(2_500)})
    await bench.store.drop_all()
    assert await bench.redis.keys() == [b"else"]


async def test_of_many_who_ask_a_server_that_hangs_none_waits_for_others_first(bench: Bench) -> None:
    """Look-ups of single users go together, and are many more than go at once: no batch waits for those before it."""
    store = RedisStore(bench.redis, bench.store._verifier, bench.clock, realm=REALM, timeout_ms=200)
    asked: list[int] = []
    values = store._single._ask

    async def counted(usernames: Sequence[str]) -> Sequence[Any]:
        asked.append(len(usernames))
        return await values(usernames)

    store._single._ask = counted
    bench.server.freeze()
    answers = await asyncio.gather(*(store.get_many([f"user-{n}"]) for n in range(640)), return_exceptions=True)
    bench.server.thaw()
    assert {type(answer) for answer in answers} == {StoreAwayError}
    # 640 in turn would be 20 batches.
    assert len(asked) <= MOST_BATCHES


async def test_a_server_that_hangs_is_away_within_the_timeout(bench: Bench) -> None:
    store = RedisStore(bench.redis, bench.store._verifier, bench.clock, realm=REALM, timeout_ms=50)
    bench.server.freeze()
    started = time.monotonic()
    with pytest.raises(StoreAwayError):
        await store.get_many(["alice"])
    assert time.monotonic() - started < 1
    bench.server.thaw()
    assert await bench.store.get_many(["alice"]) == {}


async def test_look_ups_do_not_wait_for_a_redis_that_is_away(bench: Bench) -> None:
    store, ears = bench.guarded()
    bench.server.kill()
    assert await store.get_many(["alice"]) == {}
    assert len(ears.heard) == 1
    assert ears.heard[0] is not None
    # Until the pause is over it is not even tried: with the server hanging this would take the timeout.
    bench.server.start()
    bench.server.freeze()
    async with asyncio.timeout(1):
        assert await store.get_many(["alice"]) == {}
    bench.server.thaw()
    bench.clock.advance(1_000)
    assert await store.read() is None
    assert ears.heard[1:] == [None]


async def test_what_redis_missed_is_made_good_before_it_is_used_again(bench: Bench) -> None:
    store, _ = bench.guarded()
    bench.realm.enroll("alice")
    bench.realm.enroll("bob")
    await store.put_many([bench.realm.key_record("alice"), bench.realm.key_record("bob")])
    bench.server.kill()
    await store.drop_many({"alice": 2})
    bench.server.start()
    bench.clock.advance(1_000)
    assert list(await store.get_many(["alice", "bob"])) == ["bob"]


async def test_a_position_never_runs_ahead_of_what_was_missed(bench: Bench) -> None:
    store, _ = bench.guarded(pause_ms=10)
    bench.realm.enroll("alice")
    await store.put_many([bench.realm.key_record("alice")])
    bench.server.kill()
    await store.drop_many({"alice": 2})
    await store.advance(5)
    bench.server.start()
    assert await bench.store.read() is None
    bench.clock.advance(10)
    await store.advance(6)
    assert await bench.store.get_many(["alice"]) == {}
    assert await store.read() == 6


async def test_too_much_missed_is_made_good_by_dropping_everything(bench: Bench) -> None:
    store, _ = bench.guarded()
    bench.realm.enroll("alice")
    await store.put_many([bench.realm.key_record("alice")])
    bench.server.kill()
    await store.drop_many({f"user{number}": 2 for number in range(MOST_MISSED + 1)})
    assert not store._missed
    bench.server.start()
    bench.clock.advance(1_000)
    assert await store.get_many(["alice"]) == {}
    assert await bench.redis.dbsize() == 0


async def test_dropping_everything_is_made_good_too(bench: Bench) -> None:
    store, _ = bench.guarded()
    bench.realm.enroll("alice")
    await store.put_many([bench.realm.key_record("alice")])
    bench.server.kill()
    await store.drop_all()
    bench.server.start()
    bench.clock.advance(1_000)
    assert await store.get_many(["alice"]) == {}
