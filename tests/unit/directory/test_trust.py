from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY
from keypost_services.directory.look_up.ports import SourceAwayError
from keypost_services.directory.look_up.trust import TrustKeeper
from support.clock import ManualClock
from support.directory import Ears, new_metrics, silent_log
from support.realm import REALM, SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from keypost.keys.v1 import realm_trust_pb2


class Source:
    """Serves the statement that the test puts here; None: the CA is away."""

    def __init__(self, signed: realm_trust_pb2.SignedRealmTrust | None) -> None:
        self.signed = signed
        self.asked = 0

    async def fetch_trust(self) -> realm_trust_pb2.SignedRealmTrust:
        self.asked += 1
        await asyncio.sleep(0)
        if self.signed is None:
            raise SourceAwayError("away")
        return self.signed


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.realm = SimulatedRealm(self.clock)
        self.source = Source(self.realm.signed_trust())
        self.ears = Ears()
        self.trust = TrustKeeper(
            self.source,
            self.clock,
            silent_log(),
            new_metrics(),
            realm=REALM,
            root_keys=[self.realm.root.public_key_der],
            least_interval_ms=1_000,
            on_change=self.ears,
        )

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


async def test_the_sequence_never_goes_back(bench: Bench) -> None:
    await bench.refresh(sequence=2)
    await bench.refresh(sequence=1)
    assert bench.trust.current().sequence == 2


async def test_a_statement_by_another_root_is_refused(bench: Bench) -> None:
    bench.realm.root = seeded_signer(66)
    await bench.refresh()
    with pytest.raises(SourceAwayError):
        bench.trust.current()
    assert bench.ears.heard == ["the CA's trust statement is refused: REALM_TRUST_REFUSED"]


async def test_a_statement_of_another_realm_is_refused(bench: Bench) -> None:
    await bench.refresh(realm="example.net")
    with pytest.raises(SourceAwayError):
        bench.trust.current()


async def test_a_statement_that_has_expired_is_trusted_no_longer(bench: Bench) -> None:
    await bench.trust.refresh()
    bench.clock.advance(400 * DAY)
    with pytest.raises(SourceAwayError):
        bench.trust.current()


async def test_with_the_ca_away_what_is_known_goes_on(bench: Bench) -> None:
    await bench.trust.refresh()
    bench.source.signed = None
    bench.clock.advance(1_000)
    await bench.trust.refresh()
    assert bench.trust.current().sequence == 1
    assert bench.ears.heard == [None, None]


async def test_with_the_ca_away_from_the_start_it_says_so(bench: Bench) -> None:
    bench.source.signed = None
    await bench.trust.refresh()
    assert bench.ears.heard == ["away"]


async def test_however_many_unknown_keys_are_seen_the_ca_is_asked_once_a_while(bench: Bench) -> None:
    await asyncio.gather(*(bench.trust.refresh() for _ in range(50)))
    await bench.trust.refresh()
    assert bench.source.asked == 1
    bench.clock.advance(1_000)
    await bench.trust.refresh()
    assert bench.source.asked == 2


async def test_it_is_kept_fresh(bench: Bench) -> None:
    task = asyncio.create_task(bench.trust.keep_fresh(1))
    async with asyncio.timeout(5):
        while bench.source.asked < 3:  # noqa: ASYNC110  # the source is no event
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    await bench.trust.close()
