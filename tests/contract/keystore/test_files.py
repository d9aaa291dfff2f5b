from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.keystore import KeyStoreConflictError, KeyStoreFullError, Limits
from support.key_store import ALICE, ALICE_TABLET, BOB, FILE, NOW, Reopening

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = [b"aaaa", b"bbbb", b"cccc"]


def test_parts_in_any_order_make_the_file(key_store: Reopening) -> None:
    for received, index in enumerate((2, 0, 1), start=1):
        held = key_store.again().files.add_part(FILE, index, PARTS[index], NOW)
        assert held == replace(FILE, received=received)
        assert held.complete == (received == 3)
    files = key_store.again().files
    assert files.find(BOB, FILE.file_id) == replace(FILE, received=3)
    assert list(files.read(BOB, FILE.file_id)) == PARTS


def test_reading_stops_at_the_first_part_that_is_missing(key_store: Reopening) -> None:
    for index in (0, 2):
        key_store.store.files.add_part(FILE, index, PARTS[index], NOW)
    assert list(key_store.again().files.read(BOB, FILE.file_id)) == PARTS[:1]


def test_the_same_part_again_counts_once(key_store: Reopening) -> None:
    for _ in range(2):
        assert key_store.again().files.add_part(FILE, 1, PARTS[1], NOW).received == 1


def test_a_part_keeps_its_bytes(key_store: Reopening) -> None:
    key_store.store.files.add_part(FILE, 1, PARTS[1], NOW)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.files.add_part(FILE, 1, b"dddd", NOW)


@pytest.mark.parametrize(
    "other", [{"name": "x"}, {"media_type": "x/y"}, {"count": 4}, {"size": 13}, {"sha256": b"\x05" * 32}]
)
def test_all_parts_describe_one_file(key_store: Reopening, other: dict[str, Any]) -> None:
    key_store.store.files.add_part(FILE, 0, PARTS[0], NOW)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.files.add_part(replace(FILE, **other), 1, PARTS[1], NOW)
    assert key_store.again().files.find(BOB, FILE.file_id) == replace(FILE, received=1)


def test_two_senders_may_choose_one_id(key_store: Reopening) -> None:
    key_store.store.files.add_part(FILE, 0, PARTS[0], NOW)
    key_store.store.files.add_part(replace(FILE, sender=ALICE), 0, b"zzzz", NOW)
    assert list(key_store.again().files.read(BOB, FILE.file_id)) == PARTS[:1]
    assert list(key_store.store.files.read(ALICE, FILE.file_id)) == [b"zzzz"]


@pytest.mark.parametrize(
    ("other", "index", "data"),
    [
        ({}, 3, b"a"),
        ({}, -1, b"a"),
        ({}, 0, b""),
        ({}, 0, b"a" * 13),
        ({"count": 0}, 0, b"a"),
        ({"count": 13}, 0, b"a"),
        ({"size": 0, "count": 2}, 0, b""),
    ],
)
def test_a_part_that_cannot_be_is_refused(key_store: Reopening, other: dict[str, Any], index: int, data: bytes) -> None:
    with pytest.raises(KeyStoreConflictError):
        key_store.store.files.add_part(replace(FILE, **other), index, data, NOW)
    assert key_store.again().files.find(BOB, FILE.file_id) is None


def test_an_empty_file_is_one_empty_part(key_store: Reopening) -> None:
    empty = replace(FILE, size=0, count=1)
    assert key_store.store.files.add_part(empty, 0, b"", NOW).complete
    assert list(key_store.again().files.read(BOB, FILE.file_id)) == [b""]


def test_incomplete_files_are_bounded(limited: Callable[[Limits], Reopening]) -> None:
    key_store = limited(Limits(incomplete_file_size=9_000))
    files = [replace(FILE, file_id=bytes([number]) * 16, size=9_000) for number in range(4)]
    for number, file in enumerate(files):
        key_store.store.files.add_part(file, 0, bytes(500), NOW + number)
    found = [key_store.again().files.find(BOB, file.file_id) is not None for file in files]
    assert found == [False, True, True, True]
    assert key_store.store.files.dropped() == 1
    with pytest.raises(KeyStoreFullError):
        key_store.store.files.add_part(replace(FILE, file_id=b"\x09" * 16, size=9_001), 0, b"a", NOW)
    assert key_store.again().files.dropped() == 1


def test_what_a_file_announces_takes_no_room_from_others(limited: Callable[[Limits], Reopening]) -> None:
    files = limited(Limits(incomplete_file_size=100_000)).store.files
    files.add_part(replace(FILE, sender=ALICE, size=100_000), 0, b"a", NOW)
    for index in range(3):
        files.add_part(FILE, index, PARTS[index], NOW)
    assert files.dropped() == 0


def test_the_stalest_file_of_the_user_who_takes_most_makes_room(limited: Callable[[Limits], Reopening]) -> None:
    files = limited(Limits(incomplete_file_size=20_000)).store.files
    small, large = replace(FILE, size=20_000), replace(FILE, sender=ALICE, size=20_000)
    files.add_part(small, 0, bytes(1_000), NOW)
    files.add_part(large, 0, bytes(6_000), NOW + 1)
    files.add_part(replace(large, sender=ALICE_TABLET), 0, bytes(4_000), NOW + 2)
    files.add_part(small, 1, bytes(2_000), NOW + 3)
    assert files.find(ALICE, FILE.file_id) is None
    assert files.find(ALICE_TABLET, FILE.file_id) is not None
    assert files.find(BOB, FILE.file_id) == replace(small, received=2)


def test_who_takes_most_gets_no_more_at_the_cost_of_others(limited: Callable[[Limits], Reopening]) -> None:
    files = limited(Limits(incomplete_file_size=20_000)).store.files
    large = replace(FILE, sender=ALICE, size=20_000)
    files.add_part(replace(FILE, size=20_000), 0, bytes(3_000), NOW)
    files.add_part(large, 0, bytes(11_000), NOW)
    with pytest.raises(KeyStoreFullError):
        files.add_part(large, 1, bytes(2_000), NOW)
    assert files.find(BOB, FILE.file_id) is not None
    assert files.find(ALICE, FILE.file_id) == replace(large, received=1)


def test_parts_of_one_byte_are_not_free(limited: Callable[[Limits], Reopening]) -> None:
    files = limited(Limits(incomplete_file_size=10_000)).store.files
    many = replace(FILE, size=9_000, count=9_000)
    for index in range(30):
        files.add_part(many, index, b"a", NOW)
    with pytest.raises(KeyStoreFullError):
        files.add_part(many, 31, b"a", NOW)


@pytest.mark.parametrize("field", ["name", "media_type"])
def test_a_name_has_an_end(key_store: Reopening, field: str) -> None:
    longest: dict[str, Any] = {field: "ä" * 512}
    key_store.store.files.add_part(replace(FILE, **longest), 0, PARTS[0], NOW)
    longer: dict[str, Any] = {field: "ä" * 513}
    with pytest.raises(KeyStoreConflictError):
        key_store.store.files.add_part(replace(FILE, file_id=bytes(16), **longer), 0, PARTS[0], NOW)


def test_a_file_is_removed_with_its_parts(key_store: Reopening) -> None:
    key_store.store.files.add_part(FILE, 0, PARTS[0], NOW)
    key_store.store.files.remove(BOB, FILE.file_id)
    key_store.store.files.remove(BOB, FILE.file_id)
    assert key_store.again().files.find(BOB, FILE.file_id) is None
    assert list(key_store.store.files.read(BOB, FILE.file_id)) == []
    assert key_store.store.files.add_part(FILE, 1, PARTS[1], NOW).received == 1


def test_pruning_takes_incomplete_files_alone(key_store: Reopening) -> None:
    whole = replace(FILE, file_id=b"\x09" * 16, size=4, count=1)
    key_store.store.files.add_part(FILE, 0, PARTS[0], NOW)
    key_store.store.files.add_part(whole, 0, PARTS[0], NOW)
    key_store.store.prune(NOW)
    assert key_store.store.files.find(BOB, FILE.file_id) is not None
    key_store.store.prune(NOW + 1)
    files = key_store.again().files
    assert files.find(BOB, FILE.file_id) is None
    assert files.find(BOB, whole.file_id) is not None
