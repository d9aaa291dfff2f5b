from __future__ import annotations

from typing import TYPE_CHECKING

from support.key_store import NOW

if TYPE_CHECKING:
    from support.key_store import Reopening

ONE, OTHER = b"\x01" * 32, b"\x02" * 32


def test_attempts_are_counted_one_by_one_and_across_restarts(key_store: Reopening) -> None:
    assert [key_store.again().attempts.begin(ONE, NOW) for _ in range(3)] == [1, 2, 3]
    assert key_store.store.attempts.begin(OTHER, NOW) == 1


def test_one_that_is_taken_back_does_not_count(key_store: Reopening) -> None:
    for _ in range(2):
        key_store.store.attempts.begin(ONE, NOW)
    key_store.again().attempts.take_back(ONE)
    key_store.store.attempts.take_back(OTHER)
    assert key_store.again().attempts.begin(ONE, NOW) == 2
    assert key_store.store.attempts.begin(OTHER, NOW) == 1


def test_they_begin_anew_once_they_ended(key_store: Reopening) -> None:
    for _ in range(2):
        key_store.store.attempts.begin(ONE, NOW)
    key_store.again().attempts.end(ONE)
    assert key_store.again().attempts.begin(ONE, NOW) == 1


def test_pruning_forgets_those_that_were_not_made_again(key_store: Reopening) -> None:
    for digest, now in ((ONE, NOW), (OTHER, NOW), (OTHER, NOW + 2)):
        key_store.store.attempts.begin(digest, now)
    key_store.store.prune(NOW + 1)
    assert key_store.again().attempts.begin(ONE, NOW) == 1
    assert key_store.store.attempts.begin(OTHER, NOW) == 3
