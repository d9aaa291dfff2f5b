"""Changes of one user at once, in any order of their steps: what always holds of the records and events."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.clock import DAY, HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import check_successor
from keypost.protocol.key_info import KeyRecord
from keypost_services.ca.database import open_store
from keypost_services.runtime.errors import ServiceError
from support.ca import OPEN, CaBench
from support.clock import ManualClock
from support.realm import SimulatedRealm
from support.store_turns import TurnTakingStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from keypost.protocol.key_requests import DeviceKeyPair

MOST_KEYS = 14
"""The pool has no more, and keys are made slowly."""
REASONS = (pb.REVOCATION_REASON_RETIRED, pb.REVOCATION_REASON_LOST, pb.REVOCATION_REASON_COMPROMISED)
OVERTAKEN = {"REVISION_TAKEN", "KEYS_CHANGING"}

numbers = st.integers(0, 3)
change = st.one_of(
    st.tuples(st.just("approve"), numbers),
    st.tuples(st.just("approve"), numbers),
    st.tuples(st.just("renew"), numbers),
    st.tuples(st.just("revoke"), numbers, numbers, st.sampled_from(REASONS), st.sampled_from([0, 1, 2 * HOUR])),
    st.tuples(st.just("request_reset")),
    st.tuples(st.just("cancel_reset"), numbers),
    st.tuples(st.just("enroll")),
)
meanwhile = st.sampled_from([0, HOUR, DAY, 60 * DAY])
histories = st.lists(st.tuples(meanwhile, st.lists(change, min_size=2, max_size=3)), min_size=2, max_size=5)


class Alice:
    """A user who does several things at once, and who looks at her record in between."""

    def __init__(self, bench: CaBench) -> None:
        self.bench = bench
        self.pairs: list[DeviceKeyPair] = []
        self.record: KeyRecord

    async def begin(self) -> None:
        self.pairs.append(await self.bench.enroll("alice"))
        self.record = await self.bench.record("alice")

    def pair(self, number: int) -> DeviceKeyPair:
        return self.pairs[number % len(self.pairs)]

    async def prepare(self, kind: str, *what: Any) -> Coroutine[Any, Any, Any] | None:
        """Return a change that is signed and waits to be handed in; None where there are no more keys."""
        bench = self.bench
        if kind == "request_reset":
            return bench.resets.request("alice", OPEN)
        if kind == "cancel_reset":
            return bench.submit_cancel(await bench.cancellation(self.pair(what[0])))
        if kind == "revoke":
            key, signer, reason, ago = what
            since = bench.clock() - ago if ago and reason == pb.REVOCATION_REASON_COMPROMISED else 0
            made = await bench.revocation(self.pair(key), self.pair(signer), reason=reason, since_time=since)
            return bench.submit_revoke(made)
        return await self.enter(kind, *what) if len(self.pairs) < MOST_KEYS else None

    async def enter(self, kind: str, *what: Any) -> Coroutine[Any, Any, Any]:
        bench = self.bench
        if kind == "enroll":
            how = (await bench.enrollment.begin("alice", OPEN)).kind
            pair, signed = await bench.enroll_request("alice", kind=how)
            submit = bench.submit_enroll(signed)
        elif kind == "approve":
            pair, signed = await bench.approve_request(self.pair(what[0]))
            submit = bench.submit_approve(signed)
        else:
            pair, signed = await bench.renew_request(self.pair(what[0]))
            submit = bench.submit_renew(signed)
        self.pairs.append(pair)
        return submit

    async def look(self, outcomes: list[Any]) -> None:
        """Look at her record, and at all that was answered since, as any client does."""
        current = await self.bench.record("alice")
        answered = [outcome for outcome in outcomes if isinstance(outcome, KeyRecord)]
        for record in (*sorted(answered, key=lambda record: record.revision), current):
            self.record = check_successor(self.record, record, self.bench.realm.constants)
        assert self.record is current
        assert not [key for key in current.keys if key.is_good and current.is_void(key)], (
            "the CA calls no void key good"
        )


async def check_events(bench: CaBench) -> None:
    """Every revision has its events, in order and without a gap, and so have all events."""
    events = await bench.store.list_events(0, 1_000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert len(events) == await bench.store.newest_sequence()
    revisions = [event.revision for event in events]
    assert revisions == sorted(revisions)
    newest = (await bench.record("alice")).revision
    assert set(revisions) == set(range(1, newest + 1))


async def live(history: list[tuple[int, list[tuple[Any, ...]]]], data: st.DataObject) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{Path(folder) / 'ca.db'}") as store:
            turns = TurnTakingStore(store)
            alice = Alice(CaBench(turns, clock, SimulatedRealm(clock=clock)))
            await alice.begin()
            for pause, changes in history:
                clock.advance(pause)
                prepared = [await alice.prepare(*one) for one in changes]
                at_once = [one for one in prepared if one is not None]
                before = alice.record.revision
                outcomes = await turns.interleave(at_once, lambda count: data.draw(st.integers(0, count - 1)))
                refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
                assert all(isinstance(one, ServiceError) for one in refused), refused
                await alice.look(outcomes)
                reasons = {getattr(one, "reason", "") for one in refused}
                assert reasons.isdisjoint(OVERTAKEN) or alice.record.revision > before, "nobody is overtaken by nothing"
                await check_events(alice.bench)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories, data=st.data())
def test_however_changes_interleave_revisions_rise_without_gaps_and_every_client_follows(
    history: list[tuple[int, list[tuple[Any, ...]]]], data: st.DataObject
) -> None:
    asyncio.run(live(history, data))
