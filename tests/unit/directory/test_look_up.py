"""The look-up over a CA that the test plays; process memory, which keeps the same contract, plays Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR, MINUTE, SECOND
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.errors import TokenRefusedError
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.directory.device_keys import DirectoryRecords
from keypost_services.directory.key_events.standing import Standing
from keypost_services.directory.look_up.arrow import Arrow
from keypost_services.directory.look_up.ca_tier import CaTier
from keypost_services.directory.look_up.fetch import Fetch
from keypost_services.directory.look_up.look_up import LookUp
from keypost_services.directory.look_up.ports import Failure
from keypost_services.directory.look_up.verifier import Verifier
from keypost_services.directory.store_process import ProcessStore
from keypost_services.runtime.breaker import Breaker
from keypost_services.runtime.device_keys import RecordedDeviceKeys
from keypost_services.runtime.errors import ServiceError, SourceAwayError
from support.clock import ManualClock
from support.directory import Ears, FixedTrust, new_metrics, silent_log
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE = 30_000


class Ca:
    """A KeySource in the test's hand."""

    def __init__(self, realm: SimulatedRealm) -> None:
        self.realm = realm
        self.answers: dict[str, key_info_pb2.KeyInfo | None] = {}
        self.questions: list[list[str]] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, usernames: Sequence[str]) -> Mapping[str, key_info_pb2.KeyInfo]:
        self.questions.append(list(usernames))
        if self.is_away:
            raise SourceAwayError("the test took it away")
        known = {name: self.realm.key_info(name) for name in usernames if name in self.realm.users}
        answers = {**known, **{name: self.answers[name] for name in usernames if name in self.answers}}
        await self.gate.wait()
        return {name: key_info for name, key_info in answers.items() if key_info is not None}


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.realm = SimulatedRealm(self.clock)
        self.ca = Ca(self.realm)
        self.metrics = new_metrics()
        self.ears = Ears()
        trust = FixedTrust(self.realm.trust())
        self.trust = trust
        verifier = Verifier(trust, self.clock, silent_log(), self.metrics)
        self.process = ProcessStore(self.clock, most_bytes=10_000_000)
        self.shared = ProcessStore(self.clock, most_bytes=10_000_000)
        self.standing = Standing(self.clock, GRACE)
        self.standing.covers(0)
        self.standing.alive()
        arrow = Arrow(self.process, trust)
        tier = CaTier(self.ca, verifier, arrow, Breaker(self.clock, 500), self.metrics, self.ears)
        fetch = Fetch(
            process=self.process,
            store=self.shared,
            ca=tier,
            arrow=arrow,
            standing=self.standing,
            verifier=verifier,
            metrics=self.metrics,
        )
        self.look_up = LookUp(
            self.process,
            self.shared,
            fetch,
            self.standing,
            self.clock,
            self.metrics,
            negative_ms=5_000,
            unconfirmed_ms=1_000,
        )

    @property
    def keys(self) -> RecordedDeviceKeys:
        return RecordedDeviceKeys(DirectoryRecords(self.look_up, self.trust))

    async def find(self, username: str, min_revision: int = 0) -> int | Failure:
        """Return the revision that is found, or why none is."""
        outcome = await self.look_up.find(username, min_revision=min_revision)
        return outcome if isinstance(outcome, Failure) else outcome.revision

    def refused(self, source: str, reason: str) -> Any:
        return self.metrics.refused.labels(source=source, reason=reason)._value.get()

    def begin(self, username: str, min_revision: int = 0) -> asyncio.Task[int | Failure]:
        return asyncio.create_task(self.find(username, min_revision))


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_ca_is_asked_once_and_then_memory_answers(bench: Bench) -> None:
    bench.realm.enroll("alice")
    assert [await bench.find("alice") for _ in range(3)] == [1, 1, 1]
    assert bench.ca.questions == [["alice"]]


async def test_a_hundred_who_ask_at_once_are_one_question(bench: Bench) -> None:
    bench.realm.enroll("alice")
    assert set(await asyncio.gather(*(bench.find("alice") for _ in range(100)))) == {1}
    assert bench.ca.questions == [["alice"]]


async def test_many_misses_are_one_batch(bench: Bench) -> None:
    for username in ("alice", "bob"):
        bench.realm.enroll(username)
    outcomes = await bench.look_up.find_many(["alice", "bob", "nobody"])
    assert outcomes["nobody"] is Failure.NOT_FOUND
    assert bench.ca.questions == [["alice", "bob", "nobody"]]


async def test_what_another_replica_put_into_redis_is_used(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.shared.put_many([bench.realm.key_record("alice")])
    assert await bench.find("alice") == 1
    assert bench.ca.questions == []


async def test_what_the_ca_says_is_put_into_redis(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.find("alice")
    assert bench.shared.get("alice") is not None


async def test_a_record_lives_until_its_next_update(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.find("alice")
    bench.clock.advance(HOUR - 1)
    bench.standing.alive()
    await bench.find("alice")
    assert len(bench.ca.questions) == 1
    bench.clock.advance(1)
    await bench.find("alice")
    assert len(bench.ca.questions) == 2


async def test_a_user_who_does_not_exist_is_remembered_for_a_moment(bench: Bench) -> None:
    assert await bench.find("alice") is Failure.NOT_FOUND
    bench.realm.enroll("alice")
    assert await bench.find("alice") is Failure.NOT_FOUND
    bench.clock.advance(5_000)
    assert await bench.find("alice") == 1


async def test_an_event_ends_the_memory_of_absence_at_once(bench: Bench) -> None:
    assert await bench.find("alice") is Failure.NOT_FOUND
    bench.realm.enroll("alice")
    await bench.look_up.drop_many({"alice": 1})
    assert await bench.find("alice") == 1


async def test_absence_that_an_event_overtook_is_not_remembered(bench: Bench) -> None:
    bench.ca.gate.clear()
    asking = bench.begin("alice")
    await turns()
    bench.realm.enroll("alice")
    await bench.look_up.drop_many({"alice": 1})
    bench.ca.gate.set()
    assert await asking == 1


async def test_absence_is_not_remembered_of_a_user_whose_event_came_at_the_last_moment(bench: Bench) -> None:
    put_many = bench.shared.put_many

    async def put_many_while_an_event_comes(records: Any) -> None:
        await put_many(records)
        await bench.look_up.drop_many({"alice": 1})

    bench.shared.put_many = put_many_while_an_event_comes  # type: ignore[method-assign]
    assert await bench.find("alice") is Failure.NOT_FOUND
    bench.realm.enroll("alice")
    assert await bench.find("alice") == 1


async def test_an_event_drops_what_is_held(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    await bench.find("alice")
    bench.realm.renew(pair)
    assert await bench.find("alice") == 1
    await bench.look_up.drop_many({"alice": 2})
    assert await bench.find("alice") == 2


async def test_an_answer_that_an_event_overtook_is_asked_for_again(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    bench.ca.gate.clear()
    asking = bench.begin("alice")
    await turns()
    bench.realm.renew(pair)
    await bench.look_up.drop_many({"alice": 2})
    bench.ca.gate.set()
    assert await asking == 2
    assert bench.refused("ca", "RECORD_REGRESSED") == 0
    assert len(bench.ca.questions) == 2


async def test_a_cancelled_caller_does_not_cancel_the_others(bench: Bench) -> None:
    bench.realm.enroll("alice")
    bench.ca.gate.clear()
    first, second = bench.begin("alice"), bench.begin("alice")
    await turns()
    first.cancel()
    await asyncio.wait([first])
    bench.ca.gate.set()
    assert await second == 1
    assert len(bench.ca.questions) == 1


async def test_a_min_revision_asks_through_to_the_ca(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    await bench.find("alice")
    bench.realm.renew(pair)
    assert await bench.find("alice", min_revision=1) == 1
    assert await bench.find("alice", min_revision=2) == 2
    assert len(bench.ca.questions) == 2


async def test_a_min_revision_that_redis_has_asks_nobody_else(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    await bench.find("alice")
    bench.realm.renew(pair)
    await bench.shared.put_many([bench.realm.key_record("alice")])
    assert await bench.find("alice", min_revision=2) == 2
    assert len(bench.ca.questions) == 1


async def test_a_min_revision_that_the_ca_does_not_confirm_is_not_asked_for_again_at_once(bench: Bench) -> None:
    bench.realm.enroll("alice")
    assert [await bench.find("alice", min_revision=9) for _ in range(10)] == [1] * 10
    assert await asyncio.gather(*(bench.find("alice", min_revision=8) for _ in range(10))) == [1] * 10
    assert len(bench.ca.questions) == 1
    bench.clock.advance(1_000)
    assert await bench.find("alice", min_revision=9) == 1
    assert len(bench.ca.questions) == 2


async def test_an_event_ends_the_memory_of_what_was_not_confirmed(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    await bench.find("alice", min_revision=2)
    bench.realm.renew(pair)
    await bench.look_up.drop_many({"alice": 2})
    assert await bench.find("alice", min_revision=2) == 2


async def test_whoever_joins_an_older_question_asks_again_for_what_it_could_not_know(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    bench.ca.gate.clear()
    first = bench.begin("alice")
    await turns()
    bench.realm.renew(pair)
    others = [bench.begin("alice", min_revision=2) for _ in range(10)]
    await turns()
    bench.ca.gate.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 10
    assert len(bench.ca.questions) == 2


async def test_a_min_revision_of_nobody_is_bounded_too(bench: Bench) -> None:
    assert [await bench.find("nobody", min_revision=1) for _ in range(10)] == [Failure.NOT_FOUND] * 10
    assert len(bench.ca.questions) == 1


async def test_with_the_ca_away_what_is_fresh_is_served_and_nothing_else(bench: Bench) -> None:
    for username in ("alice", "bob"):
        bench.realm.enroll(username)
    await bench.find("alice")
    bench.ca.is_away = True
    assert await bench.find("alice") == 1
    assert await bench.find("bob") is Failure.UNAVAILABLE
    assert bench.ears.heard[-1] == "the test took it away"
    bench.clock.advance(HOUR)
    assert await bench.find("alice") is Failure.UNAVAILABLE


async def test_with_the_ca_away_nobody_is_told_that_there_is_no_higher_revision(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    await bench.find("alice")
    bench.ca.is_away = True
    bench.realm.renew(pair)
    # A caller with the new key would be taken for a stranger.
    assert await bench.find("alice", min_revision=2) is Failure.UNAVAILABLE
    bench.ca.is_away = False
    bench.clock.advance(500)
    assert await bench.find("alice", min_revision=2) == 2


async def test_a_ca_that_is_away_is_not_asked_by_each(bench: Bench) -> None:
    bench.ca.is_away = True
    outcomes = [await bench.find(f"user{number}") for number in range(10)]
    assert outcomes == [Failure.UNAVAILABLE] * 10
    assert len(bench.ca.questions) == 1
    bench.ca.is_away = False
    bench.clock.advance(500)
    assert await bench.find("user1") is Failure.NOT_FOUND
    assert bench.ears.heard[-1] is None


async def test_with_the_watch_down_an_older_record_is_asked_for_anew(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.find("alice")
    bench.clock.advance(GRACE)
    assert await bench.find("alice") == 1
    assert len(bench.ca.questions) == 1
    bench.clock.advance(1)
    assert await bench.find("alice") == 1
    assert len(bench.ca.questions) == 2


async def test_with_watch_and_ca_away_a_record_is_served_until_its_next_update(bench: Bench) -> None:
    bench.realm.enroll("alice")
    await bench.find("alice")
    bench.ca.is_away = True
    bench.clock.advance(HOUR - 1)
    assert await bench.find("alice") == 1
    bench.clock.advance(1)
    assert await bench.find("alice") is Failure.UNAVAILABLE


async def test_out_of_redis_too_a_record_from_before_the_watch_is_asked_for_anew(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    await bench.shared.put_many([bench.realm.key_record("alice")])
    bench.clock.advance(MINUTE)
    bench.standing.covers(bench.clock())
    bench.standing.alive()
    bench.realm.renew(pair)
    assert await bench.find("alice") == 2


async def test_an_older_revision_from_the_ca_is_never_served(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    old = bench.realm.key_info("alice")
    bench.realm.renew(pair)
    await bench.find("alice")
    bench.ca.answers["alice"] = old
    assert await bench.find("alice", min_revision=3) is Failure.UNAVAILABLE
    assert await bench.find("alice") == 2
    assert bench.refused("ca", "RECORD_REGRESSED") == 1
    bench.clock.advance(HOUR - 1)
    bench.ca.answers["alice"] = bench.realm.key_info("alice", revision=1)
    bench.clock.advance(1)
    assert await bench.find("alice") is Failure.UNAVAILABLE


async def test_a_record_of_an_unknown_record_key_makes_the_trust_be_fetched(bench: Bench) -> None:
    bench.realm.enroll("alice")
    bench.realm.record_signer = seeded_signer(66)
    assert await bench.find("alice") is Failure.UNAVAILABLE
    assert bench.trust.refreshed == 1
    assert bench.refused("ca", "UNKNOWN_RECORD_KEY") == 1


async def test_a_bad_record_in_a_batch_spoils_no_other(bench: Bench) -> None:
    for username in ("alice", "bob"):
        bench.realm.enroll(username)
    bench.ca.answers["alice"] = bench.realm.key_info("bob")
    outcomes = await bench.look_up.find_many(["alice", "bob"])
    assert outcomes["alice"] is Failure.UNAVAILABLE
    assert outcomes["bob"] == bench.realm.key_record("bob")


async def test_dropping_everything_begins_anew(bench: Bench) -> None:
    pair = bench.realm.enroll("alice")
    newer = bench.realm.renew(pair)
    await bench.find("alice")
    await bench.find("nobody")
    bench.realm.renew(newer)
    await bench.look_up.drop_all()
    assert await bench.find("alice") == 3
    assert len(bench.ca.questions) == 3


async def test_what_a_restored_ca_has_forgotten_is_not_served(bench: Bench) -> None:
    """A key that was revoked after the backup would be good again, to whoever has not heard of that."""
    bench.realm.revoke(bench.realm.enroll("alice"))
    assert await bench.find("alice") == 2
    restored = SimulatedRealm(bench.clock)
    restored.enroll("alice")
    bench.ca.realm = restored
    await bench.look_up.drop_all()
    assert await bench.find("alice") is Failure.UNAVAILABLE
    assert bench.refused("ca", "RECORD_REGRESSED") == 1
    bench.ca.realm = SimulatedRealm(bench.clock)
    assert await bench.find("alice") is Failure.UNAVAILABLE


async def test_closing_ends_what_is_under_way(bench: Bench) -> None:
    bench.ca.gate.clear()
    asking = bench.begin("alice")
    await turns()
    await bench.look_up.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


class TestDeviceKeys:
    async def test_a_key_in_the_record_is_found(self, bench: Bench) -> None:
        pair = bench.realm.enroll("alice")
        found = await bench.keys.find_device_key("alice", pair.fingerprint)
        assert found.key.public_key_der == pair.public_key_der
        assert found.next_update == bench.realm.key_record("alice").next_update

    async def test_a_key_newer_than_the_record_is_asked_for(self, bench: Bench) -> None:
        pair = bench.realm.enroll("alice")
        await bench.find("alice")
        new = bench.realm.renew(pair)
        found = await bench.keys.find_device_key("alice", new.fingerprint)
        assert found.key.fingerprint == new.fingerprint

    async def test_unknown_keys_do_not_make_everybody_ask_the_ca(self, bench: Bench) -> None:
        bench.realm.enroll("alice")
        keys = bench.keys
        for number in range(20):
            with pytest.raises(TokenRefusedError) as refused:
                await keys.find_device_key("alice", bytes([number] * 32))
            assert refused.value.metadata == {"cause": "UNKNOWN_KEY"}
        assert len(bench.ca.questions) == 2
        bench.clock.advance(SECOND)

    async def test_a_user_who_does_not_exist_looks_like_an_unknown_key(self, bench: Bench) -> None:
        with pytest.raises(TokenRefusedError) as refused:
            await bench.keys.find_device_key("nobody", b"x" * 32)
        assert refused.value.metadata == {"cause": "UNKNOWN_KEY"}

    async def test_with_nothing_fresh_and_the_ca_away_nobody_is_refused_for_good(self, bench: Bench) -> None:
        bench.ca.is_away = True
        with pytest.raises(ServiceError) as refused:
            await bench.keys.find_device_key("alice", b"x" * 32)
        assert refused.value.reason == "CA_UNAVAILABLE"

    async def test_a_key_that_descends_from_a_compromised_one_is_void(self, bench: Bench) -> None:
        pair = bench.realm.enroll("alice")
        stolen_time = bench.clock()
        bench.clock.advance(MINUTE)
        intruder = bench.realm.approve(pair)
        bench.clock.advance(MINUTE)
        bench.realm.revoke(pair, key_info_pb2.REVOCATION_REASON_COMPROMISED, since=stolen_time)
        with pytest.raises(TokenRefusedError) as refused:
            await bench.keys.find_device_key("alice", intruder.fingerprint)
        assert refused.value.metadata == {"cause": "KEY_VOID"}

    async def test_a_key_of_a_suite_that_the_realm_does_not_allow_is_refused(self, bench: Bench) -> None:
        weak, strong = bench.realm.enroll("alice", WEAK), bench.realm.enroll("bob")
        assert (await bench.keys.find_device_key("alice", weak.fingerprint)).key.suite is WEAK
        bench.trust.allow(STRONG)
        with pytest.raises(TokenRefusedError) as refused:
            await bench.keys.find_device_key("alice", weak.fingerprint)
        assert refused.value.metadata == {"cause": "SUITE_NOT_ALLOWED"}
        await bench.keys.find_device_key("bob", strong.fingerprint)
