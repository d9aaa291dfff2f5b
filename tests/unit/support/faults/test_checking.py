"""A comparison that finds nothing would prove nothing: each kind of difference is found in a journal that has it."""

from __future__ import annotations

from typing import Any

import pytest

from support.faults.checking import (
    DOUBLED,
    FOREIGN,
    GAP,
    HANDED_OUT_AGAIN,
    LOST,
    REORDERED,
    TOLD_OF,
    DeviceJournal,
    find_differences,
)
from support.faults.journal import GOT, HANDLED, KEPT, OPENED, RAISED, SEND, SENT, TOLD, Line

ALICE = "alice-1"


def line(word: str, /, **facts: Any) -> Line:
    return {"line": word, **facts}


def sent(number: int, to: str = "bob") -> list[Line]:
    return [
        line(SEND, to=to, n=number, digest=f"d{number}"),
        line(SENT, to=to, n=number, message_id=f"id{number}"),
    ]


def raised(number: int, *, expected: bool = True, kept: bool = False) -> list[Line]:
    keeping = [line(KEPT, to="bob", message_id=f"id{number}")] if kept else []
    failed = line(RAISED, to="bob", n=number, reason="UNREACHABLE", sentence="away", expected=expected)
    return [line(SEND, to="bob", n=number, digest=f"d{number}"), *keeping, failed]


def got(number: int, sequence: int | None = None, **changes: Any) -> Line:
    facts = {
        "device": ALICE,
        "to": "bob",
        "n": number,
        "digest": f"d{number}",
        "sender": "alice/a1",
        "message_id": f"id{number}",
        "sequence": number if sequence is None else sequence,
        "redelivered": False,
        "missed": 0,
        "copy": False,
    }
    return line(GOT, **{**facts, **changes})


def journal(name: str, *lines: Line) -> DeviceJournal:
    username, _, number = name.partition("-")
    return DeviceJournal(name, username, [line(OPENED, address=f"{username}/{username[0]}{number}"), *lines])


def kinds(outgoing: list[Line], *received: Line) -> list[str]:
    """Return the kinds of difference between what alice-1 sent and what bob-1 got, where bob-2 got nothing wrong."""
    journals = [journal(ALICE, *outgoing), journal("bob-1", *received)]
    return [difference.kind for difference in find_differences(journals)]


THREE = [*sent(1), *sent(2), *sent(3)]


def test_nothing_is_found_where_all_is_well() -> None:
    assert kinds(THREE, got(1), got(2), line(HANDLED, sequence=1), line(HANDLED, sequence=2), got(3)) == []


def test_a_lost_message_is_found() -> None:
    assert kinds(THREE, got(1), got(3, 2)) == [LOST]
    assert kinds(THREE, got(1), got(2)) == [LOST]


def test_it_must_be_at_every_device_of_the_recipient() -> None:
    journals = [journal(ALICE, *sent(1)), journal("bob-1", got(1)), journal("bob-2")]
    (lost,) = find_differences(journals)
    assert (lost.kind, lost.device) == (LOST, "bob-2")


def test_a_doubled_message_is_found() -> None:
    assert DOUBLED in kinds(THREE, got(1), got(2), got(2, 3, message_id="id9"), got(3, 4))
    assert kinds(THREE, got(1), got(2), got(2, 3), got(3, 4)) == [DOUBLED]


def test_a_reordered_message_is_found() -> None:
    assert kinds(THREE, got(1), got(3, 2), got(2, 3)) == [REORDERED]


def test_one_whose_send_raised_or_never_came_back_may_be_there_once_and_in_its_place() -> None:
    unknown = [*sent(1), *raised(2), *sent(3)]
    never_back = [*sent(1), line(SEND, to="bob", n=2, digest="d2"), *sent(3)]
    for outgoing in (unknown, never_back):
        assert kinds(outgoing, got(1), got(3, 2)) == []
        assert kinds(outgoing, got(1), got(2), got(3)) == []
        assert kinds(outgoing, got(1), got(3, 2), got(2, 3)) == [REORDERED]
        assert kinds(outgoing, got(1), got(2), got(2, 3), got(3, 4)) == [DOUBLED]


def test_one_that_was_kept_must_arrive() -> None:
    assert kinds([*sent(1), *raised(2, kept=True)], got(1)) == [LOST]
    assert kinds([*sent(1), *raised(2, kept=True)], got(1), got(2)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"device": None},
        {"device": "mallory-1"},
        {"n": 4},
        {"digest": "other"},
        {"sender": "alice/a2"},
        {"message_id": "other"},
        {"to": "carol"},
        {"copy": True},
    ],
)
def test_a_foreign_message_is_found(changes: dict[str, Any]) -> None:
    assert FOREIGN in kinds(THREE, got(1), got(2), got(3), got(3, 4, **changes))


def test_two_messages_in_one_place_are_found() -> None:
    assert kinds([*sent(1), *raised(2)], got(1), got(2, 1, redelivered=True)) == [FOREIGN]


def test_handing_out_again_must_be_said_and_ends_with_handling() -> None:
    again = got(1, redelivered=True)
    assert kinds(sent(1), got(1), again, line(HANDLED, sequence=1)) == []
    assert kinds(sent(1), got(1), got(1)) == [HANDED_OUT_AGAIN]
    assert kinds(sent(1), got(1), line(HANDLED, sequence=1), again) == [HANDED_OUT_AGAIN]


def test_what_the_client_says_is_missing_is_found() -> None:
    assert kinds(THREE, got(1), got(2, missed=1), got(3)) == [GAP]


def test_what_the_client_should_not_have_told_is_found() -> None:
    aside = line(TOLD, kind="set_aside", reason="SESSION_UNKNOWN", sentence="a message was set aside")
    assert kinds(sent(1), got(1), aside) == [TOLD_OF]
    assert kinds(raised(1, expected=False)) == [TOLD_OF]


def test_a_copy_must_be_at_the_other_devices_of_the_sender_once_and_in_order() -> None:
    def found(*received: Line) -> list[str]:
        journals = [journal(ALICE, *THREE), journal("bob-1", got(1), got(2), got(3)), journal("alice-2", *received)]
        return [difference.kind for difference in find_differences(journals)]

    one, two, three = (got(number, copy=True) for number in (1, 2, 3))
    assert found(one, two, three) == []
    assert found() == [LOST] * 3
    assert found(one, three) == [LOST]
    assert found(one, got(3, 2, copy=True), got(2, 3, copy=True)) == [REORDERED]
    assert found(one, two, got(2, 3, copy=True), got(3, 4, copy=True)) == [DOUBLED]
    assert FOREIGN in found(one, two, got(3))
