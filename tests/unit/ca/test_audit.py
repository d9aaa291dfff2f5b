from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keypost_services.ca.audit import (
    BEGINNING,
    Act,
    Action,
    ActorKind,
    AuditBrokenError,
    AuditEntry,
    Head,
    Origin,
    chain,
    check_reaches,
    read_head,
    verify_chain,
)

NUMBERS = st.integers(0, 2**63 - 1)
TEXTS = st.text(max_size=12)
BYTES = st.binary(max_size=12)
ACTS = st.builds(
    Act,
    create_time=NUMBERS,
    action=st.sampled_from(Action),
    actor_kind=st.sampled_from(ActorKind),
    actor=TEXTS,
    username=TEXTS,
    device_id=TEXTS,
    fingerprint=BYTES,
    revision=NUMBERS,
    reason=st.integers(0, 4),
    peer=TEXTS,
    request_id=TEXTS,
    evidence=BYTES,
)
LOGS = st.lists(ACTS, min_size=1, max_size=6).map(lambda acts: chain(BEGINNING, acts))


def other(value: Any) -> Any:
    """Return another value that could stand in the same column."""
    if isinstance(value, int):
        return value + 1
    return f"{value}x" if isinstance(value, str) else value + b"x"


def broken(entries: list[AuditEntry], noted: Head = BEGINNING) -> None:
    with pytest.raises(AuditBrokenError):
        check_reaches(verify_chain(BEGINNING, entries, noted), noted)


@given(LOGS)
def test_what_was_written_verifies(entries: list[AuditEntry]) -> None:
    head = verify_chain(BEGINNING, entries)
    assert head == Head(len(entries), entries[-1].hash)
    assert verify_chain(verify_chain(BEGINNING, entries[:1]), entries[1:], head) == head
    check_reaches(head, head)


@given(LOGS, st.data())
def test_an_altered_entry_is_noticed(entries: list[AuditEntry], data: st.DataObject) -> None:
    index = data.draw(st.sampled_from(range(len(entries))))
    name = data.draw(st.sampled_from([field.name for field in fields(Act)]))
    act = entries[index].act
    entries[index] = replace(entries[index], act=replace(act, **{name: other(getattr(act, name))}))
    broken(entries)


@given(LOGS, st.data())
def test_an_altered_hash_is_noticed(entries: list[AuditEntry], data: st.DataObject) -> None:
    index = data.draw(st.sampled_from(range(len(entries))))
    entries[index] = replace(entries[index], hash=data.draw(st.binary(max_size=32)))
    broken(entries)


@given(LOGS, st.data())
def test_a_removed_entry_is_noticed(entries: list[AuditEntry], data: st.DataObject) -> None:
    noted = verify_chain(BEGINNING, entries)
    del entries[data.draw(st.sampled_from(range(len(entries))))]
    broken(entries, noted)


@given(LOGS, ACTS, st.data())
def test_an_inserted_entry_is_noticed(entries: list[AuditEntry], act: Act, data: st.DataObject) -> None:
    """However well it continues those before it."""
    index = data.draw(st.sampled_from(range(len(entries))))
    before = verify_chain(BEGINNING, entries[:index])
    broken([*entries[:index], *chain(before, [act]), *entries[index:]])


@given(LOGS, st.data())
def test_exchanged_entries_are_noticed(entries: list[AuditEntry], data: st.DataObject) -> None:
    index = data.draw(st.sampled_from(range(len(entries))))
    one, two = entries[index], entries[index - 1]
    assume(one.act != two.act)
    entries[index], entries[index - 1] = replace(one, act=two.act), replace(two, act=one.act)
    broken(entries)


@given(LOGS, ACTS, st.data())
def test_a_log_written_anew_is_given_away_by_a_head_that_was_noted(
    entries: list[AuditEntry], act: Act, data: st.DataObject
) -> None:
    noted = verify_chain(BEGINNING, entries)
    acts = [entry.act for entry in entries]
    index = data.draw(st.sampled_from(range(len(acts))))
    assume(acts[index] != act)
    acts[index] = act
    forged = chain(BEGINNING, acts)
    verify_chain(BEGINNING, forged)
    broken(forged, noted)


@pytest.mark.parametrize("bad", [{"revision": -1}, {"reason": "lost"}, {"actor": None}, {"evidence": "text"}])
def test_a_value_that_is_never_written_is_an_alteration(bad: dict[str, Any]) -> None:
    (entry,) = chain(BEGINNING, [Act(1, Action.CODE_MADE, ActorKind.OPERATOR, "", "alice")])
    broken([replace(entry, act=replace(entry.act, **bad))])


def test_a_head_is_read_as_it_is_written() -> None:
    head = Head(12, bytes(range(32)))
    assert read_head(str(head)) == head
    zeros = "0" * 64
    for text in ("", "12", "12:", f":{zeros}", f"-1:{zeros}", f"1:{'g' * 64}", f"1:{zeros[1:]}", f"\u0661:{zeros}"):
        with pytest.raises(ValueError, match="hex"):
            read_head(text)


def test_a_long_address_is_cut() -> None:
    assert Origin("ipv6:" + "1" * 200).peer == "ipv6:" + "1" * 59
