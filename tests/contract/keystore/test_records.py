from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import KeyStoreConflictError, Limits
from keypost.keystore.values import Evidence, StoredRecord
from support.key_store import NOW, Reopening

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = StoredRecord("bob", epoch=2, revision=7, this_update=NOW, key_info=b"key info")
EVIDENCE = Evidence("bob", "EQUIVOCATION", b"one", b"other", NOW)


def test_the_newest_record_is_kept(key_store: Reopening) -> None:
    records = key_store.store.records
    assert records.find("bob") is None
    records.put(RECORD)
    records.put(replace(RECORD, this_update=NOW + 1, key_info=b"refreshed"))
    assert records.find("bob") == replace(RECORD, this_update=NOW + 1, key_info=b"refreshed")
    records.put(replace(RECORD, revision=8, this_update=NOW - 1, key_info=b"changed"))
    records.put(replace(RECORD, username="alice"))
    assert key_store.again().records.find("bob") == replace(
        RECORD, revision=8, this_update=NOW - 1, key_info=b"changed"
    )
    assert key_store.store.records.usernames() == ("alice", "bob")


def test_an_older_answer_of_the_same_revision_changes_nothing(key_store: Reopening) -> None:
    key_store.store.records.put(RECORD)
    key_store.store.records.put(replace(RECORD, this_update=NOW - 1, key_info=b"older"))
    assert key_store.again().records.find("bob") == RECORD


@pytest.mark.parametrize("back", [{"revision": 6}, {"epoch": 1, "revision": 8}])
def test_a_record_never_goes_back(key_store: Reopening, back: dict[str, int]) -> None:
    key_store.store.records.put(RECORD)
    with pytest.raises(KeyStoreConflictError):
        key_store.store.records.put(
            StoredRecord("bob", back.get("epoch", 2), back["revision"], NOW + 9, b"from another history")
        )
    assert key_store.again().records.find("bob") == RECORD


def test_pins_are_kept(key_store: Reopening) -> None:
    assert key_store.store.records.pins("bob") is None
    key_store.store.records.set_pins("bob", b"pins")
    key_store.store.records.set_pins("bob", b"pins, accepted")
    assert key_store.again().records.pins("bob") == b"pins, accepted"


def test_evidence_is_kept_once(key_store: Reopening) -> None:
    for evidence in (EVIDENCE, replace(EVIDENCE, time=NOW + 5), replace(EVIDENCE, current=b"third")):
        key_store.store.records.add_evidence(evidence)
    assert key_store.again().records.evidence("bob") == (EVIDENCE, replace(EVIDENCE, current=b"third"))
    assert key_store.store.records.evidence("alice") == ()


def test_evidence_is_bounded_and_the_first_stays(limited: Callable[[Limits], Reopening]) -> None:
    key_store = limited(Limits(evidence_count=2))
    every = [replace(EVIDENCE, current=b"%d" % number) for number in range(4)]
    for evidence in every:
        key_store.store.records.add_evidence(evidence)
    another = replace(EVIDENCE, reason="DEVICES_DIFFER")
    key_store.store.records.add_evidence(another)
    assert key_store.again().records.evidence("bob") == (*every[:2], another)


def test_closed_keys_stay_closed(key_store: Reopening) -> None:
    key_store.store.records.close_keys([b"\x01" * 32, b"\x02" * 32], NOW, mark=7)
    key_store.store.records.close_keys({b"\x02" * 32}, NOW + 1, mark=9)
    records = key_store.again().records
    assert [records.closing_mark(bytes([key]) * 32) for key in (1, 2, 3)] == [7, 7, None]


def test_a_user_can_be_forgotten_but_for_the_evidence(key_store: Reopening) -> None:
    records = key_store.store.records
    for username in ("alice", "bob"):
        records.put(replace(RECORD, username=username))
        records.set_pins(username, b"pins")
    records.add_evidence(EVIDENCE)
    records.forget("bob")
    records.forget("bob")
    records = key_store.again().records
    assert (records.find("bob"), records.pins("bob")) == (None, None)
    assert records.usernames() == ("alice",)
    assert records.pins("alice") == b"pins"
    assert records.evidence("bob") == (EVIDENCE,)


def test_pins_are_removed_before_others_take_their_place(key_store: Reopening) -> None:
    records = key_store.store.records
    records.set_pins("bob", b"of an invitation")
    records.set_pins("bob", None)
    records.set_pins("carol", None)
    assert key_store.again().records.pins("bob") is None
