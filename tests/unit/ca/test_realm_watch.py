"""What becomes of a change in the realm's files while the CA serves: entered in the audit log, then served."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from keypost.clock import DAY
from keypost.protocol.encoding import sha256
from keypost.protocol.realm_trust import restore_realm_trust
from keypost_services.ca.audit import NOWHERE, Act, Action, ActorKind, AuditEntry
from keypost_services.ca.metrics import Metrics
from keypost_services.ca.policy import Policy
from keypost_services.ca.store import StoreAwayError
from keypost_services.ca.trust.realm import Realm
from keypost_services.ca.trust.realm_watch import PART, RealmWatch
from keypost_services.ca.trust.signing import LocalSigner
from keypost_services.ca.trust.trust_log import TrustLog, this_machine
from keypost_services.runtime.health import Health
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.metrics import HealthMetrics
from support.ca import served_realm
from support.clock import START, ManualClock
from support.realm import REALM, seeded_signer
from support.trust_statements import RECORD, trust_statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.keys.v1 import realm_trust_pb2 as pb
    from keypost.protocol.realm_trust import RealmTrust
    from keypost_services.ca.store import InstalledTrust

AWAY = "the database does not answer"


class Bench:
    """A watch over files that are none, and an audit log that is a list.

    Attributes:
        entered: The sequence of each statement that was entered, with that of the one that was served then.
        away: How often the audit log still takes nothing.
        unread: How often the audit log still says nothing.
        other: The entry of a statement that contradicts the one that is served.
        states: What each look at the files sees; then always the same.
        done: Set once a statement was entered.
    """

    def __init__(self) -> None:
        self.entered: list[tuple[int, int]] = []
        self.away = self.unread = 0
        self.other: AuditEntry | None = None
        self.files = realm_of(trust_statement())
        self.states = iter([0])
        self.done = asyncio.Event()
        self.output = StringIO()
        log, registry = make_logger("ca", "info", "json", self.output), CollectorRegistry()
        health_metrics = HealthMetrics(registry)
        self.health, self.metrics = Health(log, health_metrics), Metrics(registry)
        trust = self.files.trust
        self.watch = RealmWatch(
            lambda: self.files,
            lambda: next(self.states, 1),
            self.enter,
            self.find_contradicting,
            served_realm(trust, seeded_signer(RECORD)),
            Policy(trust.constants, 90 * DAY),
            ManualClock(),
            log,
            self.health,
            self.metrics,
            health_metrics,
        )

    @property
    def served(self) -> int:
        return self.watch.realm.trust.sequence

    @property
    def refusals(self) -> float:
        return self.metrics.realm_refused._value.get()  # type: ignore[no-any-return]

    def install(self, signed: pb.SignedRealmTrust) -> None:
        self.files = realm_of(signed)

    async def enter(self, trust: RealmTrust) -> None:
        if self.away:
            self.away -= 1
            raise StoreAwayError(AWAY)
        self.entered.append((trust.sequence, self.served))
        self.done.set()

    async def find_contradicting(self, trust: RealmTrust) -> AuditEntry | None:
        if self.unread:
            self.unread -= 1
            raise StoreAwayError(AWAY)
        assert trust.sequence == self.served, "it is asked of what is served"
        return self.other

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.output.getvalue().splitlines()) if line["event"] == event]


def entry_of(sequence: int) -> AuditEntry:
    act = Act(START, Action.TRUST_INSTALLED, ActorKind.ROOT_KEY, "", "", revision=sequence)
    return AuditEntry(9, act, bytes(32))


def realm_of(signed: pb.SignedRealmTrust) -> Realm:
    return Realm(
        restore_realm_trust(signed, REALM), signers=tuple(LocalSigner(seeded_signer(seed)) for seed in (RECORD, 4))
    )


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_statement_is_entered_before_it_is_served(bench: Bench) -> None:
    bench.install(trust_statement(2))
    assert await bench.watch.take_up() is None
    assert (bench.entered, bench.served) == ([(2, 1)], 2)


@pytest.mark.parametrize("signed", [trust_statement(1, record_keys={4: 500}), trust_statement(2, record_keys={5: 500})])
async def test_what_is_refused_has_no_entry(bench: Bench, signed: Any) -> None:
    bench.install(signed)
    assert await bench.watch.take_up() is not None
    assert (bench.entered, bench.served, bench.refusals) == ([], 1, 1)


async def test_what_cannot_be_entered_is_served_all_the_same_and_entered_once_it_can(bench: Bench) -> None:
    bench.away = 2
    bench.install(trust_statement(2))
    why = await bench.watch.take_up()
    assert why is not None
    assert AWAY in why
    assert await bench.watch.take_up(why) == why
    assert (bench.entered, bench.served) == ([], 2), "a stolen record key must end, whatever the database does"
    assert AWAY in bench.health.degraded[PART]
    assert (bench.output.getvalue().count("not entered"), bench.refusals) == (1, 0), "said once, and no refusal"
    assert await bench.watch.take_up(why) is None
    assert (bench.entered, bench.served) == ([(2, 2)], 2)
    assert PART not in bench.health.degraded


async def test_the_watch_tries_again_by_itself(bench: Bench) -> None:
    bench.away = 3
    bench.install(trust_statement(2))
    await watch_until_entered(bench)
    assert bench.entered == [(2, 2)]


async def test_what_was_installed_before_the_first_look_is_served(bench: Bench) -> None:
    bench.states = iter([])  # all looks see the same
    bench.install(trust_statement(2))
    await watch_until_entered(bench)
    assert bench.entered == [(2, 1)]


@pytest.mark.parametrize(
    ("entered", "told"), [pytest.param(3, "3", id="a newer one"), pytest.param(1, "another 1", id="a fork")]
)
async def test_files_that_the_audit_log_contradicts_are_served_and_that_is_said_loudly_and_once(
    bench: Bench, entered: int, told: str
) -> None:
    bench.other = entry_of(entered)
    assert await bench.watch.compare() is None
    assert await bench.watch.take_up() is None, "nothing to do but for whoever put them there"
    (line,) = bench.lines("realm goes back")
    assert (line["level"], line["serving"], line["entered"], line["entry"]) == ("error", 1, entered, 9)
    why = f"the realm's files have trust statement 1, and entry 9 of the audit log tells of {told}"
    assert bench.health.degraded == {PART: why}
    assert (bench.served, bench.refusals) == (1, 0)
    bench.install(trust_statement(4))
    bench.other = None
    await bench.watch.take_up()
    assert (bench.served, bench.health.degraded) == (4, {})


async def test_another_statement_of_the_same_sequence_does_not_end_the_alarm(bench: Bench) -> None:
    bench.other = entry_of(2)
    await bench.watch.compare()
    bench.install(trust_statement(2, record_keys={RECORD: 500}))
    assert await bench.watch.take_up() is None
    assert bench.served == 2
    assert bench.health.degraded[PART].endswith("of another 2")
    assert [line["serving"] for line in bench.lines("realm goes back")] == [1, 2]


async def test_a_log_that_is_not_read_is_told_as_that_and_asked_again(bench: Bench) -> None:
    bench.away, bench.unread, bench.other = 1, 2, entry_of(3)
    bench.install(trust_statement(2))
    why, said = None, []
    for _ in range(4):
        why = await bench.watch.take_up(why)
        said.append(bench.health.degraded[PART])
        assert why is None or why == said[-1]
    assert said[1] == said[2] == f"the audit log does not say whether there is another trust statement: {AWAY}"
    assert (said[0], said[3]) != (said[1], said[1])
    assert why is None
    counts = {event: len(bench.lines(f"trust statement not {event}")) for event in ("entered", "compared")}
    assert counts == {"entered": 1, "compared": 1}, "each is said once"
    assert len(bench.lines("realm goes back")) == 1


async def watch_until_entered(bench: Bench) -> None:
    looking = asyncio.create_task(bench.watch.run(0))
    try:
        async with asyncio.timeout(20):
            await bench.done.wait()
    finally:
        looking.cancel()


class Remembers:
    """A store that remembers what it is to enter."""

    def __init__(self) -> None:
        self.installed: list[InstalledTrust] = []

    async def enter_trust(self, installed: InstalledTrust) -> Sequence[AuditEntry]:
        self.installed.append(installed)
        return ()

    async def find_contradicting_trust(self, sequence: int, statement_hash: bytes) -> AuditEntry | None:
        signed = trust_statement()
        return entry_of(7) if (sequence, statement_hash) == (1, sha256(signed.realm_trust)) else None


async def test_an_entry_says_when_and_on_which_machine(bench: Bench) -> None:
    store: Any = Remembers()
    clock = ManualClock()
    await TrustLog(store, clock, bench.watch.log, this_machine()).enter(bench.files.trust)
    (installed,) = store.installed
    assert (installed.signed, installed.time) == (trust_statement(), clock())
    assert installed.origin != NOWHERE
    assert installed.origin.peer.startswith("host:")


async def test_the_log_is_asked_for_what_contradicts_a_statement_by_its_hash(bench: Bench) -> None:
    store: Any = Remembers()
    log = TrustLog(store, ManualClock(), bench.watch.log, this_machine())
    assert await log.find_contradicting(bench.files.trust) == entry_of(7)
