"""What every Limiter keeps to: in this process, in Redis, and behind what notices that Redis is away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from keypost.clock import DAY, SECOND
from keypost_services.runtime.breaker import Breaker
from keypost_services.runtime.limits.limiter_guarded import FallingBackLimiter, RefusingLimiter, WatchedLimiter
from keypost_services.runtime.limits.limiter_leasing import LeasingLimiter
from keypost_services.runtime.limits.limiter_local import LocalLimiter
from keypost_services.runtime.limits.limiter_redis import RedisLimiter
from keypost_services.runtime.limits.metrics import LimitMetrics
from keypost_services.runtime.limits.ports import Charge, Quota
from keypost_services.runtime.redis import redis_client
from support.clock import ManualClock
from support.valkey import ValkeyServer, running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from keypost_services.runtime.limits.ports import Limiter

TWO_A_SECOND = Quota(2, SECOND)
ADAPTERS = ["local", "redis", "falling_back", "refusing", "leasing"]


@dataclass
class Bench:
    clock: ManualClock
    limiter: Limiter

    async def taken(self, number: int, charge: Charge) -> int:
        """Return how many of so many charges were taken."""
        return [await self.limiter.take([charge]) for _ in range(number)].count(None)


def over(name: str, shared: Limiter, clock: ManualClock) -> Limiter:
    metrics = LimitMetrics(CollectorRegistry())
    watched = WatchedLimiter(shared, Breaker(clock, 1_000), lambda _why: None, metrics)
    if name == "leasing":
        return LeasingLimiter(watched, clock)
    if name == "falling_back":
        return FallingBackLimiter(watched, LocalLimiter(clock), metrics)
    return RefusingLimiter(watched, metrics) if name == "refusing" else shared


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(params=ADAPTERS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    clock = ManualClock()
    if request.param == "local":
        yield Bench(clock, LocalLimiter(clock))
        return
    redis = redis_client(request.getfixturevalue("valkey").url)
    await redis.flushall()
    shared = RedisLimiter(redis, realm="example.org", timeout_ms=5_000, clock=clock)
    yield Bench(clock, over(request.param, shared, clock))
    await redis.aclose()


async def test_so_many_are_admitted_at_once_and_then_one_after_the_other(bench: Bench) -> None:
    charge = Charge("calls", "alice", TWO_A_SECOND)
    assert await bench.taken(5, charge) == 2
    bench.clock.advance(500)
    assert await bench.taken(5, charge) == 1
    bench.clock.advance(60_000)
    assert await bench.taken(5, charge) == 2


async def test_who_is_refused_is_told_by_what_and_when_there_is_enough(bench: Bench) -> None:
    charge = Charge("calls", "alice", TWO_A_SECOND)
    await bench.taken(2, charge)
    shortage = await bench.limiter.take([charge])
    assert shortage is not None
    assert shortage.limit == "calls"
    assert 500 <= shortage.retry_after_ms <= 501
    bench.clock.advance(shortage.retry_after_ms)
    assert await bench.limiter.take([charge]) is None


async def test_callers_limits_and_quotas_are_counted_apart(bench: Bench) -> None:
    await bench.taken(2, Charge("calls", "alice", TWO_A_SECOND))
    others = [
        Charge("calls", "bob", TWO_A_SECOND),
        Charge("look_ups", "alice", TWO_A_SECOND),
        Charge("calls", "alice", Quota(2, 2 * SECOND)),
        Charge("callsa", "lice", TWO_A_SECOND),
    ]
    assert await bench.limiter.take(others) is None


async def test_all_is_taken_or_nothing_and_the_longest_wait_is_told(bench: Bench) -> None:
    minute, day = Charge("calls", "alice", Quota(2, 60_000)), Charge("days", "alice", Quota(1, DAY))
    assert await bench.limiter.take([minute, day]) is None
    shortage = await bench.limiter.take([minute, day])
    assert shortage is not None
    assert (shortage.limit, DAY <= shortage.retry_after_ms <= DAY + 1) == ("days", True)
    assert await bench.taken(2, minute) == 1


async def test_nothing_is_taken_where_nothing_is_charged(bench: Bench) -> None:
    assert await bench.limiter.take([]) is None
    await bench.limiter.book([])


async def test_a_charge_of_nothing_asks_whether_one_is_left(bench: Bench) -> None:
    charge, question = Charge("calls", "alice", TWO_A_SECOND), Charge("calls", "alice", TWO_A_SECOND, 0)
    assert await bench.taken(9, question) == 9
    assert await bench.taken(3, charge) == 2
    assert await bench.taken(9, question) == 0


async def test_a_charge_may_cost_several(bench: Bench) -> None:
    quota = Quota(100, 100 * SECOND)
    assert await bench.taken(2, Charge("look_ups", "alice", quota, 60)) == 1
    assert await bench.taken(2, Charge("look_ups", "alice", quota, 40)) == 1
    bench.clock.advance(40 * SECOND)
    assert await bench.taken(2, Charge("look_ups", "alice", quota, 40)) == 1


async def test_more_than_there_can_be_wants_a_full_quota_and_is_owed(bench: Bench) -> None:
    much = Charge("look_ups", "alice", TWO_A_SECOND, 3)
    assert await bench.taken(1, much) == 1
    bench.clock.advance(500)
    assert await bench.taken(1, Charge("look_ups", "alice", TWO_A_SECOND)) == 0
    bench.clock.advance(500)
    assert await bench.taken(2, Charge("look_ups", "alice", TWO_A_SECOND)) == 1
    assert await bench.taken(1, much) == 0


async def test_what_is_booked_is_owed_a_full_quota_at_most(bench: Bench) -> None:
    charge = Charge("unknown", "alice", TWO_A_SECOND)
    await bench.limiter.book([Charge("unknown", "alice", TWO_A_SECOND, 1_000)])
    bench.clock.advance(1_499)
    assert await bench.taken(1, charge) == 0
    bench.clock.advance(1)
    assert await bench.taken(2, charge) == 1


async def test_what_is_given_back_is_there_again_and_never_more_than_a_full_quota(bench: Bench) -> None:
    charge, back = Charge("calls", "alice", TWO_A_SECOND), Charge("calls", "alice", TWO_A_SECOND, -1)
    await bench.limiter.book([back])
    assert await bench.taken(3, charge) == 2
    await bench.limiter.book([back])
    assert await bench.taken(3, charge) == 1
    for _ in range(5):
        await bench.limiter.book([back])
    assert await bench.taken(3, charge) == 2


async def test_a_clock_that_goes_back_closes_nothing_for_longer_than_a_debt(bench: Bench) -> None:
    charge = Charge("calls", "alice", TWO_A_SECOND)
    await bench.taken(2, charge)
    bench.clock.advance(-30 * DAY)
    await bench.limiter.take([charge])
    bench.clock.advance(2_000)
    assert await bench.limiter.take([charge]) is None


async def test_calls_at_once_are_admitted_no_more_often(bench: Bench) -> None:
    charge = Charge("calls", "alice", Quota(10, DAY))
    answers = await asyncio.gather(*(bench.limiter.take([charge]) for _ in range(40)))
    assert answers.count(None) == 10


@pytest.mark.parametrize("caller", ["", "a" * 10_000, "x}y{z\r\n*\0", "käthe", "kl:example.org:"])
async def test_a_caller_may_be_called_anything(bench: Bench, caller: str) -> None:
    assert await bench.taken(3, Charge("calls", caller, TWO_A_SECOND)) == 2


QUOTAS = st.builds(Quota, st.integers(1, 50), st.integers(1, 5_000))
EVENTS = st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 60)), min_size=1, max_size=30)


def most_ever(taken: list[tuple[int, int]], quota: Quota) -> None:
    """Hold every window of what was taken, (time, cost), against what the quota gives."""
    for first in range(len(taken)):
        costs = 0
        for time, cost in taken[first:]:
            costs += cost
            given_back = (time - taken[first][0]) * quota.most / quota.period
            assert costs <= max(quota.most, cost, taken[first][1]) + given_back + 1e-6


@pytest.fixture(params=["local", "redis"])
def run_history(request: pytest.FixtureRequest) -> Callable[[Quota, list[tuple[int, int]]], None]:
    """Return what plays a history of (pause, cost) against a fresh quota and looks at every window of it."""

    async def play(limiter: Limiter, clock: ManualClock, quota: Quota, history: list[tuple[int, int]]) -> None:
        taken = []
        for pause, cost in history:
            clock.advance(pause)
            # More than there can be is owed, and the windows of a history with debts are another law.
            charge = Charge("calls", "alice", quota, min(cost, quota.most))
            if await limiter.take([charge]) is None:
                taken.append((clock(), charge.cost))
        most_ever(taken, quota)

    async def play_in_redis(quota: Quota, history: list[tuple[int, int]]) -> None:
        clock = ManualClock()
        async with redis_client(request.getfixturevalue("valkey").url) as redis:
            await redis.flushall()
            await play(RedisLimiter(redis, realm="r", timeout_ms=5_000, clock=clock), clock, quota, history)

    def run(quota: Quota, history: list[tuple[int, int]]) -> None:
        if request.param == "redis":
            asyncio.run(play_in_redis(quota, history))
        else:
            clock = ManualClock()
            asyncio.run(play(LocalLimiter(clock), clock, quota, history))

    return run


def test_no_window_ever_sees_more_than_the_quota_and_what_came_back_within_it(
    run_history: Callable[[Quota, list[tuple[int, int]]], None],
) -> None:
    @settings(max_examples=60, deadline=None)
    @given(quota=QUOTAS, history=EVENTS)
    def law(quota: Quota, history: list[tuple[int, int]]) -> None:
        run_history(quota, history)

    law()


# Periods that binary fractions hold exactly: where the one admits at the very moment, so does the other.
EXACT = st.builds(lambda most, power: Quota(most, most * 2**power), st.integers(1, 50), st.integers(0, 9))
Acts = list[tuple[int, bool, int]]
ACTS = st.lists(st.tuples(st.integers(0, 600), st.booleans(), st.integers(-5, 60)), min_size=1, max_size=30)


async def act(limiter: Limiter, quota: Quota, acts: Acts, clock: ManualClock) -> list[int | None]:
    """Take or book, one after the other; return the waits of what was refused."""
    waits = []
    for pause, is_booked, cost in acts:
        clock.advance(pause)
        if is_booked:
            await limiter.book([Charge("calls", "alice", quota, cost)])
        elif cost >= 0:
            shortage = await limiter.take([Charge("calls", "alice", quota, cost)])
            waits.append(None if shortage is None else shortage.retry_after_ms)
    return waits


def test_here_and_in_redis_the_same_is_admitted_refused_owed_and_given_back(valkey: ValkeyServer) -> None:
    async def compare(quota: Quota, acts: Acts) -> None:
        clock = ManualClock()
        here = await act(LocalLimiter(clock), quota, acts, clock)
        async with redis_client(valkey.url) as redis:
            await redis.flushall()
            clock = ManualClock()
            limiter = RedisLimiter(redis, realm="example.org", timeout_ms=5_000, clock=clock)
            there = await act(limiter, quota, acts, clock)
        for ours, theirs in zip(here, there, strict=True):
            assert (ours is None) == (theirs is None)
            assert abs((ours or 0) - (theirs or 0)) <= 1

    @settings(max_examples=60, deadline=None)
    @given(quota=EXACT, acts=ACTS)
    def law(quota: Quota, acts: Acts) -> None:
        asyncio.run(compare(quota, acts))

    law()
