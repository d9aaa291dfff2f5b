from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from keypost.clock import DAY
from keypost.errors import UnreachableError
from keypost.protocol.realm_trust import ServedTrust
from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.metrics import HealthMetrics
from keypost_services.runtime.realm_trust import TrustKeeper
from support.chains import Chain
from support.clock import ManualClock
from support.directory import Ears, silent_log
from support.realm import REALM, SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from keypost.keys.v1 import realm_trust_pb2


class Source:
    """Serves the statement that the test puts here; None: whoever is asked is away."""

    def __init__(self, signed: realm_trust_pb2.SignedRealmTrust | None) -> None:
        self.signed = signed
        self.earlier: list[realm_trust_pb2.SignedRealmTrust] = []
        self.asked = 0
        self.error: Exception = SourceAwayError("away")

    async def fetch_trust(self) -> ServedTrust:
        self.asked += 1
        await asyncio.sleep(0)
        if self.signed is None:
            raise self.error
        return ServedTrust(self.signed, tuple(self.earlier))


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.realm = SimulatedRealm(self.clock)
        self.source = Source(self.realm.signed_trust())
        self.ears = Ears()
        self.registry = CollectorRegistry()
        self.trust = TrustKeeper(
            self.source.fetch_trust,
            self.clock,
            silent_log(),
            realm=REALM,
            root_keys=[self.realm.root.public_key_der],
            on_change=self.ears,
            metrics=HealthMetrics(self.registry),
            on_retired=self.note_retired,
        )
        self.retired = 0

    async def note_retired(self) -> None:
        self.retired += 1

    async def refresh(self, **changes: Any) -> None:
        self.source.signed = self.realm.signed_trust(**changes)
        self.clock.advance(1_000)
        await self.trust.refresh()


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_nothing_is_trusted_before_it_is_known(bench: Bench) -> None:
    with pytest.raises(SourceAwayError):
        bench.trust.current()
    await bench.trust.refresh()
    assert bench.trust.current().sequence == 1
    assert bench.ears.heard == [None]
    await asyncio.wait_for(bench.trust.wait_until_known(), 5)


async def test_a_newer_statement_replaces_an_older(bench: Bench) -> None:
    await bench.trust.refresh()
    await bench.refresh(sequence=2)
    assert bench.trust.current().sequence == 2
    assert bench.registry.get_sample_value("keypost_trust_sequence") == 2
    assert bench.registry.get_sample_value("keypost_trust_end_time_seconds") == bench.trust.current().until_time / 1_000


async def test_the_sequence_never_goes_back(bench: Bench) -> None:
    await bench.refresh(sequence=2)
    await bench.refresh(sequence=1)
    assert bench.trust.current().sequence == 2


async def test_a_statement_by_another_root_is_refused(bench: Bench) -> None:
    bench.realm.root = seeded_signer(66)
    await bench.refresh()
    with pytest.raises(SourceAwayError):
        bench.trust.current()
    assert bench.ears.heard == ["the realm's trust statement is refused: REALM_TRUST_REFUSED"]


async def test_a_statement_of_another_realm_is_refused(bench: Bench) -> None:
    await bench.refresh(realm="example.net")
    with pytest.raises(SourceAwayError):
        bench.trust.current()


async def test_a_statement_that_has_expired_is_trusted_no_longer(bench: Bench) -> None:
    await bench.trust.refresh()
    bench.clock.advance(400 * DAY)
    with pytest.raises(SourceAwayError):
        bench.trust.current()


async def test_with_the_source_away_what_is_known_goes_on(bench: Bench) -> None:
    await bench.trust.refresh()
    bench.source.signed = None
    bench.clock.advance(1_000)
    await bench.trust.refresh()
    assert bench.trust.current().sequence == 1
    assert bench.ears.heard == [None, None]


@pytest.mark.parametrize("error", [SourceAwayError("away"), UnreachableError("away")])
async def test_with_the_source_away_from_the_start_it_says_so(bench: Bench, error: Exception) -> None:
    bench.source.signed, bench.source.error = None, error
    await bench.trust.refresh()
    assert bench.ears.heard == ["away"]


async def test_however_many_unknown_keys_are_seen_it_is_asked_for_once_a_while(bench: Bench) -> None:
    await asyncio.gather(*(bench.trust.refresh() for _ in range(50)))
    await bench.trust.refresh()
    assert bench.source.asked == 1
    bench.clock.advance(1_000)
    await bench.trust.refresh()
    assert bench.source.asked == 2


async def test_it_is_kept_fresh(bench: Bench) -> None:
    task = asyncio.create_task(bench.trust.keep_fresh(0.001))
    async with asyncio.timeout(5):
        while bench.source.asked < 3:  # noqa: ASYNC110  # the source is no event
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    await bench.trust.close()


async def test_whoever_must_rely_on_it_asks_for_it_and_not_all_the_time(bench: Bench) -> None:
    true, bench.source.signed = bench.source.signed, None
    for _ in range(3):
        with pytest.raises(SourceAwayError):
            await bench.trust.reliable()
    assert bench.source.asked == 1
    bench.source.signed = true
    bench.clock.advance(1_000)
    assert {trust.sequence for trust in await asyncio.gather(*(bench.trust.reliable() for _ in range(9)))} == {1}
    assert (await bench.trust.reliable()).sequence == 1
    assert bench.source.asked == 2


async def test_the_question_goes_on_if_who_asked_first_goes_away(bench: Bench) -> None:
    first, second = asyncio.ensure_future(bench.trust.reliable()), asyncio.ensure_future(bench.trust.reliable())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).sequence == 1
    assert bench.source.asked == 1


async def test_root_keys_are_followed_as_they_hand_over(bench: Bench) -> None:
    chain = Chain(bench.realm)
    chain.hand_over(bench.realm.root, seeded_signer(5))
    chain.add(seeded_signer(5), seeded_signer(5))
    bench.source.signed, bench.source.earlier = chain.served.signed, list(chain.served.earlier)
    await bench.trust.refresh()
    assert bench.trust.current().sequence == 4
    assert bench.trust.served(0) == chain.served
    assert bench.trust.served(2).earlier == chain.served.earlier[1:]


async def test_without_the_way_to_a_new_root_key_it_is_refused(bench: Bench) -> None:
    chain = Chain(bench.realm)
    await bench.trust.refresh()
    chain.hand_over(bench.realm.root, seeded_signer(5))
    bench.source.signed = chain.served.signed
    bench.clock.advance(1_000)
    await bench.trust.refresh()
    assert bench.trust.current().sequence == 1


async def test_nothing_is_served_on_before_it_is_known(bench: Bench) -> None:
    with pytest.raises(SourceAwayError):
        bench.trust.served(0)


async def test_a_record_key_that_is_retired_before_its_time_is_told(bench: Bench) -> None:
    await bench.trust.refresh()
    await bench.refresh(sequence=2)
    assert bench.retired == 0
    bench.realm.record_signer = seeded_signer(8)
    await bench.refresh(sequence=3)
    assert bench.retired == 1
    await bench.refresh(sequence=4)
    assert bench.retired == 1
