from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import KeyStoreFullError, Limits
from support.key_store import WAITING, Reopening, envelope

if TYPE_CHECKING:
    from keypost.keystore.values import WaitingEnvelope

Factory = Callable[[Limits], Reopening]


def test_envelopes_wait_in_the_order_in_which_they_came(key_store: Reopening) -> None:
    waiting = key_store.store.waiting
    sequences = [waiting.add(envelope(number, "bob" if number % 2 else "carol")) for number in range(5)]
    waiting = key_store.again().waiting
    assert [found.sequence for found in waiting.page()] == sequences
    assert waiting.page(limit=1) == (replace(envelope(0, "carol"), sequence=sequences[0]),)
    assert [found.sequence for found in waiting.page(sequences[1], username="bob")] == [sequences[3]]
    assert len(waiting.page()) == 5


def test_the_same_envelope_waits_once(key_store: Reopening) -> None:
    first = key_store.store.waiting.add(WAITING)
    assert key_store.again().waiting.add(replace(WAITING, reason="CLOCK_AHEAD")) == first
    assert key_store.store.waiting.page() == (replace(WAITING, sequence=first),)


def test_an_envelope_moves_from_waiting_to_set_aside(key_store: Reopening) -> None:
    sequence = key_store.store.waiting.add(WAITING)
    with key_store.store.transaction():
        key_store.store.waiting.remove(sequence)
        moved = key_store.store.set_aside.add(replace(WAITING, reason="TOO_OLD"))
    store = key_store.again()
    assert store.waiting.page() == ()
    assert store.set_aside.page() == (replace(WAITING, reason="TOO_OLD", sequence=moved),)


def test_a_list_removes_its_own_envelopes_alone(key_store: Reopening) -> None:
    sequence = key_store.store.waiting.add(WAITING)
    key_store.store.set_aside.remove(sequence)
    assert key_store.again().waiting.page() != ()
    key_store.store.waiting.remove(sequence)
    key_store.store.waiting.remove(sequence)
    assert key_store.again().waiting.page() == ()


def test_what_is_sealed_to_a_key_is_counted_and_what_is_not_known_counts_too(key_store: Reopening) -> None:
    waiting = key_store.store.waiting
    assert waiting.newest() == 0
    waiting.add(replace(envelope(1), sealed_to=b"\x01" * 32))
    waiting.add(replace(envelope(2), sealed_to=b"\x02" * 32))
    mark = waiting.newest()
    assert waiting.count_sealed_to(b"\x01" * 32, b"", up_to=mark) == 1
    last = waiting.add(replace(envelope(3), sealed_to=b""))
    waiting = key_store.again().waiting
    assert waiting.count_sealed_to(b"\x01" * 32, b"", up_to=mark) == 1
    assert waiting.count_sealed_to(b"\x01" * 32, b"", up_to=last) == 2
    assert waiting.count_sealed_to(b"\x03" * 32, b"", up_to=last) == 1


def test_what_moved_counts_by_when_it_first_came_and_since_a_time(key_store: Reopening) -> None:
    name = b"\x01" * 32
    first = key_store.store.waiting.add(replace(envelope(1), sealed_to=name))
    late = key_store.store.waiting.add(envelope(2))
    key_store.store.waiting.remove(first)
    moved = replace(envelope(1), sealed_to=name, came=first)
    key_store.store.set_aside.add(moved)
    set_aside = key_store.again().set_aside
    [row] = set_aside.page()
    assert (row.came, row.arrival) == (first, first)
    assert row.sequence > late
    assert set_aside.count_sealed_to(name, up_to=first) == 1
    assert set_aside.count_sealed_to(name, up_to=first - 1) == 0
    assert set_aside.count_sealed_to(b"", up_to=late) == 0
    received = min(moved.accept_time, moved.receive_time)
    assert set_aside.count_sealed_to(name, up_to=first, since=received) == 1
    assert set_aside.count_sealed_to(name, up_to=first, since=received + 1) == 0


def test_the_newest_is_of_the_own_list_and_none_comes_below_it_again(key_store: Reopening) -> None:
    sequence = key_store.store.waiting.add(WAITING)
    key_store.store.set_aside.add(WAITING)
    assert key_store.again().waiting.newest() == sequence
    key_store.store.waiting.remove(sequence)
    assert key_store.again().waiting.newest() == 0
    assert key_store.store.waiting.add(WAITING) > sequence


@pytest.mark.parametrize("limits", [Limits(waiting_count=2), Limits(waiting_size=299)])
def test_a_full_waiting_list_refuses_and_keeps_what_it_has(limited: Factory, limits: Limits) -> None:
    key_store = limited(limits)
    for number in range(2):
        key_store.store.waiting.add(envelope(number))
    with pytest.raises(KeyStoreFullError) as refused:
        key_store.store.waiting.add(envelope(2))
    assert refused.value.metadata == {"list": "waiting"}
    key_store.store.waiting.add(envelope(1))
    assert key_store.again().waiting.page()[1].envelope == envelope(1).envelope
    assert key_store.store.waiting.dropped() == 0


@pytest.mark.parametrize("limits", [Limits(set_aside_count=2), Limits(set_aside_size=299)])
def test_set_aside_the_oldest_make_room_and_are_counted(limited: Factory, limits: Limits) -> None:
    key_store = limited(limits)
    sequences = [key_store.store.set_aside.add(envelope(number)) for number in range(5)]
    set_aside = key_store.again().set_aside
    assert [found.sequence for found in set_aside.page()] == sequences[3:]
    assert set_aside.dropped() == 3


def test_an_envelope_beyond_the_whole_list_empties_nothing(limited: Factory) -> None:
    key_store = limited(Limits(set_aside_size=150))
    key_store.store.set_aside.add(envelope(1))
    with pytest.raises(KeyStoreFullError):
        key_store.store.set_aside.add(replace(WAITING, envelope=bytes(151)))
    assert key_store.again().set_aside.page()[0].envelope == envelope(1).envelope


@pytest.mark.parametrize("limits", [Limits(user_count=2), Limits(user_size=299)])
def test_one_user_fills_neither_list(limited: Factory, limits: Limits) -> None:
    store = limited(limits).store
    carols = [store.set_aside.add(envelope(10, "carol")), store.waiting.add(envelope(10, "carol"))]
    for number in range(2):
        store.waiting.add(envelope(number))
    with pytest.raises(KeyStoreFullError):
        store.waiting.add(envelope(2))
    sequences = [store.set_aside.add(envelope(number)) for number in range(3)]
    assert [found.sequence for found in store.set_aside.page()] == [carols[0], *sequences[1:]]
    assert store.set_aside.dropped() == 1
    assert store.waiting.add(envelope(11, "carol")) > carols[1]


def test_a_full_waiting_list_sets_the_newest_of_the_user_who_takes_most_aside(limited: Factory) -> None:
    key_store = limited(Limits(waiting_count=4))
    store = key_store.store
    first = store.waiting.add(envelope(10, "carol"))
    sequences = [store.waiting.add(envelope(number)) for number in range(3)]
    last = store.waiting.add(envelope(11, "dave"))
    store = key_store.again()
    assert [found.sequence for found in store.waiting.page()] == [first, *sequences[:2], last]
    [moved] = store.set_aside.page()
    assert (moved.envelope, moved.arrival) == (envelope(2).envelope, sequences[2])
    assert (store.waiting.dropped(), store.set_aside.dropped()) == (1, 0)
    with pytest.raises(KeyStoreFullError):
        store.waiting.add(envelope(3))


def test_a_full_list_takes_from_the_user_who_takes_most(limited: Factory) -> None:
    store = limited(Limits(set_aside_count=4)).store
    first = store.set_aside.add(envelope(10, "carol"))
    sequences = [store.set_aside.add(envelope(number)) for number in range(3)]
    last = store.set_aside.add(envelope(11, "dave"))
    assert [found.sequence for found in store.set_aside.page()] == [first, *sequences[1:], last]


def sized(number: int, username: str, size: int) -> WaitingEnvelope:
    return replace(envelope(number, username), envelope=bytes([number]) * size)


def of_users(page: tuple[WaitingEnvelope, ...]) -> Counter[str]:
    return Counter(found.username for found in page)


@pytest.mark.parametrize("name", ["waiting", "set_aside"])
def test_a_list_without_a_place_left_takes_from_whoever_has_most_places(limited: Factory, name: str) -> None:
    """One large envelope of Carol does not give way to many small ones of those who flood the list."""
    places = Limits(user_count=3, **{f"{name}_count": 6})
    kept = getattr(limited(places).store, name)
    kept.add(sized(1, "carol", 5000))
    for number, username in enumerate(["mallory"] * 3 + ["marvin"] * 2, 2):
        kept.add(sized(number, username, 100))
    kept.add(sized(7, "mona", 100))
    assert of_users(kept.page()) == {"carol": 1, "mallory": 2, "marvin": 2, "mona": 1}


@pytest.mark.parametrize("name", ["waiting", "set_aside"])
def test_a_list_without_a_byte_left_takes_from_whoever_has_most_bytes(limited: Factory, name: str) -> None:
    kept = getattr(limited(Limits(**{f"{name}_size": 5500})).store, name)
    kept.add(sized(1, "mallory", 3000))
    kept.add(sized(2, "mallory", 2000))
    for number in range(3, 6):
        kept.add(sized(number, "carol", 100))
    kept.add(sized(6, "mona", 300))
    assert of_users(kept.page()) == {"mallory": 1, "carol": 3, "mona": 1}


def test_a_list_that_is_full_of_both_takes_from_the_larger_share(limited: Factory) -> None:
    waiting = limited(Limits(waiting_count=4, waiting_size=10_000)).store.waiting
    waiting.add(sized(1, "carol", 4000))
    for number in range(2, 5):
        waiting.add(sized(number, "mallory", 100))
    waiting.add(sized(5, "mona", 5800))
    assert of_users(waiting.page()) == {"carol": 1, "mallory": 2, "mona": 1}
