from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypost.errors import InvalidArgumentError
from keypost.keystore import KeyStoreConflictError
from keypost.keystore.counters import COUNT
from keypost.keystore.values import ReceivedMark
from support.key_store import ALICE, BOB, BOTH, NOW, SESSION, Reopening, memory_store


def message_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_counters_begin_at_one_and_go_on_across_processes_and_sessions(key_store: Reopening) -> None:
    assert key_store.store.counters.next_send(BOTH) == 1
    key_store.store.sessions.add(SESSION)
    assert key_store.again().counters.next_send(BOTH) == 2
    key_store.store.prune(NOW + 1)
    assert key_store.again().counters.next_send(BOTH) == 3
    assert key_store.store.counters.next_send(("alice", "carol")) == 1


def test_the_pair_must_be_sorted_or_it_would_count_anew(key_store: Reopening) -> None:
    with pytest.raises(InvalidArgumentError):
        key_store.store.counters.next_send(("bob", "alice"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([BOTH, ("alice", "alice")]), st.booleans())))
def test_law_no_counter_is_taken_twice_whatever_fails(takes: list[tuple[tuple[str, str], bool]]) -> None:
    store, committed = memory_store(), dict[tuple[str, str], list[int]]()
    for conversation, fails in takes:
        try:
            with store.transaction():
                counter = store.counters.next_send(conversation)
                if fails:
                    raise ConnectionAbortedError  # noqa: TRY301  # stands for whatever goes wrong in the block
        except ConnectionAbortedError:
            continue
        committed.setdefault(conversation, []).append(counter)
    for counters in committed.values():
        assert counters == list(range(1, len(counters) + 1))
    store.close()


def test_a_replay_is_known_across_processes(key_store: Reopening) -> None:
    assert not key_store.store.counters.is_received(BOB, message_id(1))
    key_store.store.counters.mark_received(BOB, BOTH, 1, message_id(1), NOW)
    counters = key_store.again().counters
    assert counters.is_received(BOB, message_id(1))
    assert not counters.is_received(ALICE, message_id(1))
    with pytest.raises(KeyStoreConflictError):
        counters.mark_received(BOB, BOTH, 1, message_id(1), NOW)


def test_gaps_are_reported_and_late_messages_close_them(key_store: Reopening) -> None:
    def mark(counter: int) -> ReceivedMark:
        return key_store.again().counters.mark_received(BOB, BOTH, counter, message_id(counter), NOW)

    assert mark(3) == ReceivedMark(previous=0, missed=2, clone_of=None)
    assert key_store.store.counters.missed(BOB, BOTH) == 0
    assert mark(4) == ReceivedMark(previous=3, missed=0, clone_of=None)
    assert mark(8) == ReceivedMark(previous=4, missed=3, clone_of=None)
    assert key_store.store.counters.missed(BOB, BOTH) == 3
    assert mark(6) == ReceivedMark(previous=8, missed=0, clone_of=None)
    assert key_store.store.counters.missed(BOB, BOTH) == 2
    assert mark(1) == ReceivedMark(previous=8, missed=0, clone_of=None)
    assert key_store.store.counters.missed(BOB, BOTH) == 2
    assert key_store.store.counters.missed(BOB, ("bob", "bob")) == 0


def test_one_counter_under_two_ids_betrays_a_clone(key_store: Reopening) -> None:
    counters = key_store.store.counters
    counters.mark_received(BOB, BOTH, 1, message_id(1), NOW)
    counters.mark_received(BOB, BOTH, 3, message_id(3), NOW)
    counters.mark_received(BOB, ("bob", "bob"), 2, message_id(9), NOW)
    counters.mark_received(BOB, BOTH, 2, message_id(2), NOW)
    assert key_store.again().counters.mark_received(BOB, BOTH, 2, message_id(7), NOW) == ReceivedMark(
        previous=3, missed=0, clone_of=message_id(2)
    )
    assert key_store.store.counters.missed(BOB, BOTH) == 0


@settings(max_examples=30, deadline=None)
@given(st.permutations(list(range(1, 9))), st.integers(0, 8))
def test_law_missed_is_what_has_not_come_since_the_first(order: list[int], come: int) -> None:
    store = memory_store()
    for counter in order[:come]:
        store.counters.mark_received(BOB, BOTH, counter, message_id(counter), NOW)
    seen = set(order[:come])
    expected = [n for n in range(order[0], max(seen, default=0)) if n not in seen]
    assert store.counters.missed(BOB, BOTH) == len(expected)
    store.close()


@pytest.mark.parametrize("counter", [0, -1, 2**63])
def test_a_counter_that_cannot_be_is_refused(key_store: Reopening, counter: int) -> None:
    with pytest.raises(InvalidArgumentError):
        key_store.store.counters.mark_received(BOB, BOTH, counter, message_id(1), NOW)
    assert not key_store.again().counters.is_received(BOB, message_id(1))


def test_marks_are_pruned_by_age_and_the_counter_is_not(key_store: Reopening) -> None:
    key_store.store.counters.mark_received(BOB, BOTH, 5, message_id(5), NOW)
    key_store.store.counters.mark_received(BOB, BOTH, 6, message_id(6), NOW + 10)
    key_store.store.prune(NOW + 10)
    counters = key_store.again().counters
    assert not counters.is_received(BOB, message_id(5))
    assert counters.is_received(BOB, message_id(6))
    assert counters.mark_received(BOB, BOTH, 8, message_id(8), NOW + 20).previous == 6


def test_a_new_count_is_above_every_counter_that_was_or_could_have_been_used(key_store: Reopening) -> None:
    key_store.store.counters.next_send(BOTH)
    key_store.store.counters.begin_count()
    assert key_store.again().counters.next_send(BOTH) == COUNT + 1
    assert key_store.store.counters.next_send(("alice", "carol")) == COUNT + 1
    assert key_store.store.counters.next_send(BOTH) == COUNT + 2
    key_store.store.counters.begin_count()
    key_store.store.counters.begin_count()
    assert key_store.again().counters.next_send(BOTH) == 3 * COUNT + 1


def test_where_a_new_count_begins_nothing_is_missed_that_nobody_knows_of(key_store: Reopening) -> None:
    def mark(counter: int) -> ReceivedMark:
        return key_store.store.counters.mark_received(BOB, BOTH, counter, message_id(counter), NOW)

    mark(7)
    assert mark(COUNT + 1) == ReceivedMark(previous=7, missed=0, clone_of=None)
    assert mark(COUNT + 4) == ReceivedMark(previous=COUNT + 1, missed=2, clone_of=None)
    assert mark(8) == ReceivedMark(previous=COUNT + 4, missed=0, clone_of=None)
    assert mark(3 * COUNT + 2).missed == 1
    first = key_store.store.counters.mark_received(ALICE, BOTH, 2 * COUNT + 3, message_id(9), NOW)
    assert first == ReceivedMark(previous=0, missed=2, clone_of=None)
