from __future__ import annotations

from keypost_services.runtime.breaker import Breaker
from support.clock import ManualClock


def test_after_a_failure_nobody_asks_until_the_pause_is_over() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, 1_000)
    assert breaker.admit()
    breaker.failed()
    assert breaker.is_away
    assert not breaker.admit()
    clock.advance(999)
    assert not breaker.admit()
    clock.advance(1)
    assert breaker.admit()


def test_after_the_pause_one_asks_and_the_others_wait_for_what_comes_of_it() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, 1_000)
    breaker.failed()
    clock.advance(1_000)
    assert [breaker.admit() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert [breaker.admit() for _ in range(3)] == [True, True, True]


def test_a_clock_set_back_does_not_keep_the_door_shut() -> None:
    clock = ManualClock()
    breaker = Breaker(clock, 1_000)
    breaker.failed()
    clock.advance(-3_600_000)
    assert breaker.admit()
