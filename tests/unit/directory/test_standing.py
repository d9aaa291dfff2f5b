from __future__ import annotations

from keypost_services.directory.key_events.standing import Standing
from support.clock import START, ManualClock

GRACE = 30_000


def test_before_the_watch_stands_everything_is_asked_for() -> None:
    standing = Standing(ManualClock(), GRACE)
    assert not standing.is_standing()
    assert standing.oldest() == START


def test_a_watch_resumed_where_redis_was_right_vouches_for_all_records() -> None:
    standing = Standing(ManualClock(), GRACE)
    standing.covers(0)
    standing.alive()
    assert standing.is_standing()
    assert standing.oldest() == 0


def test_a_watch_begun_anew_vouches_for_no_record_made_before() -> None:
    clock = ManualClock()
    standing = Standing(clock, GRACE)
    standing.covers(clock())
    standing.alive()
    clock.advance(GRACE)
    standing.alive()
    assert standing.oldest() == START


def test_with_the_watch_silent_records_grow_old_within_the_grace() -> None:
    clock = ManualClock()
    standing = Standing(clock, GRACE)
    standing.covers(0)
    standing.alive()
    clock.advance(GRACE)
    assert standing.oldest() == 0
    clock.advance(1)
    assert not standing.is_standing()
    assert standing.oldest() == clock() - GRACE
    standing.alive()
    assert standing.oldest() == 0


def test_lost_events_take_everything_back() -> None:
    clock = ManualClock()
    standing = Standing(clock, GRACE)
    standing.covers(0)
    standing.alive()
    standing.lost()
    assert not standing.is_standing()
    assert standing.oldest() == clock()
