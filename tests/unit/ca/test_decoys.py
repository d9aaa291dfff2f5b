from __future__ import annotations

import itertools

import pytest

from keypost.clock import DAY
from keypost_services.ca.decoys import Decoys
from support.clock import START

PERIOD = 60 * DAY
NAMES = [f"user{number}" for number in range(500)]


@pytest.fixture
def decoys() -> Decoys:
    return Decoys(b"s" * 32, START, PERIOD)


def test_in_the_first_period_nobody_has_renewed(decoys: Decoys) -> None:
    assert {decoys.next_revision(name, START + PERIOD - 1) for name in NAMES} == {2}
    assert decoys.next_revision("alice", START - DAY) == 2, "nor before the CA began"


def test_later_they_are_as_many_as_the_ages_of_real_ones(decoys: Decoys) -> None:
    drawn = [decoys.next_revision(name, START + 10 * PERIOD) for name in NAMES]
    assert set(drawn) == set(range(2, 12))
    assert all(20 < drawn.count(revision) < 90 for revision in set(drawn)), "uniform: 50 each"


def test_they_grow_and_never_fall(decoys: Decoys) -> None:
    grown = 0
    for name in NAMES[:20]:
        over_time = [decoys.next_revision(name, START + day * DAY) for day in range(0, 2_000, 10)]
        assert {after - before for before, after in itertools.pairwise(over_time)} <= {0, 1}
        grown += over_time[-1] > 2
    assert grown > 10


def test_all_processes_draw_the_same_and_no_outsider_does(decoys: Decoys) -> None:
    def drawn(by: Decoys) -> list[int]:
        return [by.next_revision(name, START + 10 * PERIOD) for name in NAMES]

    assert drawn(decoys) == drawn(Decoys(b"s" * 32, START, PERIOD))
    assert drawn(decoys) != drawn(Decoys(b"t" * 32, START, PERIOD))
