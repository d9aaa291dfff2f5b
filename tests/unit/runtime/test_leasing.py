"""Who calls often is asked about seldom, and yet nobody gets more than there is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY, MINUTE
from keypost_services.runtime.limits.limiter_leasing import LeasingLimiter
from keypost_services.runtime.limits.limiter_local import LocalLimiter
from keypost_services.runtime.limits.ports import Charge, LimitsAwayError, Quota, Shortage
from support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

QUOTA = Quota(2_000, DAY)
CALL = Charge("Send", "device alice/1", QUOTA)
UNKNOWN = Charge("unknown_users", "device alice/1", Quota(100, DAY), 0)


class Shared(LocalLimiter):
    """The limits of all replicas; counts how often it is asked."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.asked = 0
        self.booked: list[int] = []  # given back
        self.away = False

    async def take(self, charges: Sequence[Charge]) -> Shortage | None:
        self.asked += 1
        if self.away:
            raise LimitsAwayError("away")
        answer = await super().take(charges)
        await asyncio.sleep(0)
        return answer

    async def book(self, charges: Sequence[Charge]) -> None:
        self.booked += [charge.cost for charge in charges if charge.cost < 0]
        await super().book(charges)


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.shared = Shared(self.clock)
        self.replicas = [LeasingLimiter(self.shared, self.clock) for _ in range(2)]

    async def taken(self, number: int, *charges: Charge, replica: int = 0) -> int:
        """Return how many of so many calls were admitted."""
        return [await self.replicas[replica].take(charges or [CALL]) for _ in range(number)].count(None)

    async def left(self) -> int:
        """Return how many calls the shared limits still admit."""
        count = 0
        while await self.shared.take([CALL]) is None:
            count += 1
        return count


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_who_calls_often_is_asked_about_seldom(bench: Bench) -> None:
    assert await bench.taken(500) == 500
    assert bench.shared.asked < 50


async def test_who_calls_often_does_not_wait(bench: Bench) -> None:
    """More is taken before nothing is left: a call that finds something left asks nobody itself."""
    await bench.taken(40)
    waited = 0
    for _ in range(400):
        call = asyncio.ensure_future(bench.replicas[0].take([CALL]))
        # Whoever calls next comes when the event loop has been round.
        await asyncio.sleep(0)
        waited += not call.done()
        assert await call is None
    assert waited == 0


async def test_calls_at_once_ask_once_for_all(bench: Bench) -> None:
    await bench.taken(100)
    bench.shared.asked = 0
    answers = await asyncio.gather(*(bench.replicas[0].take([CALL]) for _ in range(64)))
    assert answers == [None] * 64
    assert bench.shared.asked <= 5


async def test_who_calls_now_and_then_pays_for_each_call_alone(bench: Bench) -> None:
    for _ in range(50):
        await bench.taken(1)
        bench.clock.advance(2_000)
    bench.clock.advance(-100_000)
    assert await bench.left() in range(QUOTA.most - 50, QUOTA.most - 46)


async def test_no_more_is_admitted_than_there_is_by_however_many_replicas(bench: Bench) -> None:
    admitted = 0
    for _ in range(QUOTA.most):
        admitted += await bench.taken(1) + await bench.taken(1, replica=1)
    ahead = 2 * QUOTA.most // 100
    assert QUOTA.most - ahead <= admitted <= QUOTA.most


async def test_what_was_not_used_is_given_back(bench: Bench) -> None:
    await bench.taken(40)
    bench.clock.advance(MINUTE)
    await bench.taken(1)
    (given_back,) = bench.shared.booked
    assert -(QUOTA.most // 100) < given_back < 0


async def test_a_refusal_is_that_of_the_shared_limits(bench: Bench) -> None:
    await bench.taken(QUOTA.most)
    refused = await bench.replicas[0].take([CALL])
    assert refused is not None
    assert refused.retry_after_ms == pytest.approx(DAY / QUOTA.most, abs=2)


async def test_small_quotas_and_dear_calls_are_asked_for_one_by_one(bench: Bench) -> None:
    small = Charge("Revoke", "device alice/1", Quota(120, MINUTE))
    dear = Charge("Send", "device alice/1", QUOTA, 100)
    for charge, number in ((small, 50), (dear, 10)):
        bench.shared.asked = 0
        await bench.taken(number, charge)
        assert bench.shared.asked == number


async def test_what_was_booked_meanwhile_ends_what_was_taken_ahead(bench: Bench) -> None:
    """Else names could be tried out with what was paid for before the last one was found not to exist."""
    assert await bench.taken(40, CALL, UNKNOWN) == 40
    await bench.replicas[0].book([Charge(UNKNOWN.limit, UNKNOWN.caller, UNKNOWN.quota, 100)])
    assert await bench.taken(40, CALL, UNKNOWN) == 0


async def test_what_is_booked_while_more_is_taken_ahead_ends_it_too(bench: Bench) -> None:
    assert await bench.taken(40, CALL, UNKNOWN) == 40
    leasing = bench.replicas[0]
    while not leasing._under_way:
        assert await leasing.take([CALL, UNKNOWN]) is None
    await asyncio.sleep(0)
    await leasing.book([Charge(UNKNOWN.limit, UNKNOWN.caller, UNKNOWN.quota, 100)])
    bench.clock.advance(1)
    await asyncio.gather(*leasing._under_way)
    assert await bench.taken(40, CALL, UNKNOWN) == 0


async def test_away_is_told_to_everybody_who_has_nothing_left(bench: Bench) -> None:
    bench.shared.away = True
    answers = await asyncio.gather(*(bench.replicas[0].take([CALL]) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LimitsAwayError] * 3
    bench.shared.away = False
    assert await bench.taken(1) == 1
