from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import KeyStoreConflictError, KeyStoreFullError, Limits
from support.key_store import NOW, TRANSFER

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.key_store import Reopening


def test_a_transfer_is_kept_as_it_is(key_store: Reopening) -> None:
    key_store.store.transfers.add(TRANSFER)
    assert key_store.again().transfers.find(TRANSFER.file_id) == TRANSFER
    assert key_store.store.transfers.find(bytes(16)) is None


def test_all_are_listed_the_oldest_first(key_store: Reopening) -> None:
    others = [replace(TRANSFER, file_id=bytes([number]) * 16, create_time=NOW - number) for number in (1, 2)]
    for transfer in (TRANSFER, *others):
        key_store.store.transfers.add(transfer)
    assert key_store.again().transfers.all() == (others[1], others[0], TRANSFER)


def test_an_id_is_of_one_transfer(key_store: Reopening) -> None:
    key_store.store.transfers.add(TRANSFER)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.transfers.add(replace(TRANSFER, recipient="carol"))
    assert key_store.again().transfers.all() == (TRANSFER,)


def test_parts_are_begun_in_order_and_may_have_to_be_again(key_store: Reopening) -> None:
    transfers = key_store.store.transfers
    transfers.add(TRANSFER)

    def following() -> int:
        found = key_store.again().transfers.find(TRANSFER.file_id)
        assert found is not None
        return found.next

    assert following() == 0
    for index, expected in ((0, 1), (1, 2), (0, 2), (3, 2)):
        assert key_store.store.transfers.begin_part(TRANSFER.file_id, index)
        assert following() == expected
    for index, expected in ((2, 2), (1, 1), (0, 0)):
        key_store.store.transfers.take_back_part(TRANSFER.file_id, index)
        assert following() == expected


def test_no_part_begins_of_what_is_given_up(key_store: Reopening) -> None:
    key_store.store.transfers.add(TRANSFER)
    for _ in range(2):
        key_store.store.transfers.remove(TRANSFER.file_id)
    assert not key_store.again().transfers.begin_part(TRANSFER.file_id, 0)
    key_store.store.transfers.take_back_part(TRANSFER.file_id, 0)
    key_store.store.transfers.note_time(TRANSFER.file_id, 1)
    assert key_store.again().transfers.all() == ()


def test_a_file_may_be_touched(key_store: Reopening) -> None:
    key_store.store.transfers.add(replace(TRANSFER, next=2))
    key_store.store.transfers.note_time(TRANSFER.file_id, 7)
    assert key_store.again().transfers.all() == (replace(TRANSFER, next=2, modify_time_ns=7),)


def test_there_is_an_end_to_them(limited: Callable[[Limits], Reopening]) -> None:
    key_store = limited(Limits(transfers_count=1))
    key_store.store.transfers.add(TRANSFER)
    with pytest.raises(KeyStoreFullError) as caught:
        key_store.store.transfers.add(replace(TRANSFER, file_id=bytes(16)))
    assert caught.value.metadata == {"list": "transfers"}
    key_store.store.transfers.note_time(TRANSFER.file_id, 7)
    assert len(key_store.again().transfers.all()) == 1
