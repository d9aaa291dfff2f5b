from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.keystore import KeyStoreConflictError, KeyStoreFullError, Limits
from support.key_store import ALICE, BOB, FILE, NOW, Reopening

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
    key_store = limited(Limits(incomplete_file_size=20))
    key_store.store.files.add_part(FILE, 0, PARTS[0], NOW)
    another = replace(FILE, file_id=b"\x09" * 16)
    with pytest.raises(KeyStoreFullError):
        key_store.store.files.add_part(another, 0, PARTS[0], NOW)
    for index in (1, 2):
        key_store.store.files.add_part(FILE, index, PARTS[index], NOW)
    key_store.again().files.add_part(another, 0, PARTS[0], NOW)


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
