from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypost.protocol.encoding import sha256
from keypost.protocol.errors import MalformedStatementError, SafetyNumberDiffersError
from keypost.protocol.safety_numbers import (
    DIGITS,
    Identity,
    check_same_digits,
    code_of,
    compare_code,
    digits_of,
    grouped,
    read_code,
    safety_number,
)

REALM = "example.org"
ALICE = Identity("alice", 1, sha256(b"alice"))
BOB = Identity("bob", 2, sha256(b"bob"))
USERNAMES = st.from_regex(r"[a-z0-9]([a-z0-9._@+-]{0,10}[a-z0-9])?", fullmatch=True)
IDENTITIES = st.builds(Identity, USERNAMES, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32))


def test_both_sides_show_the_same_number_and_code() -> None:
    number = safety_number(REALM, ALICE, BOB)
    assert number == safety_number(REALM, BOB, ALICE) == digits_of(REALM, ALICE) + digits_of(REALM, BOB)
    assert len(number) == 2 * DIGITS == 60
    assert code_of(REALM, ALICE, BOB) == code_of(REALM, BOB, ALICE)


@pytest.mark.parametrize(
    "other", [replace(BOB, username="bo"), replace(BOB, epoch=3), replace(BOB, root=sha256(b"mallory"))]
)
def test_another_user_epoch_or_root_has_another_number(other: Identity) -> None:
    assert digits_of(REALM, other) != digits_of(REALM, BOB)
    assert digits_of("example.com", BOB) != digits_of(REALM, BOB)


def test_digits_are_read_in_groups_and_compared_without_them() -> None:
    digits = digits_of(REALM, BOB)
    shown = grouped(digits)
    assert [len(group) for group in shown.split(" ")] == [5] * 6
    check_same_digits(digits, shown)
    check_same_digits(digits, f" {shown}\n")


@pytest.mark.parametrize("typed", ["", "1", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_other_digits_are_refused(typed: str) -> None:
    digits = digits_of(REALM, BOB)
    for compared in (typed, digits[:-1] + typed, digits + typed[:1] + "0"):
        if compared != digits:
            with pytest.raises(SafetyNumberDiffersError):
                check_same_digits(digits, compared)


def test_a_code_says_whose_keys_differ() -> None:
    seen = code_of(REALM, ALICE, replace(BOB, root=sha256(b"mallory")))
    with pytest.raises(SafetyNumberDiffersError) as raised:
        compare_code(REALM, (BOB, ALICE), seen)
    assert raised.value.metadata == {"field": "root", "username": "bob"}


@given(one=IDENTITIES, other=IDENTITIES)
def test_a_code_is_read_as_it_was_written(one: Identity, other: Identity) -> None:
    realm, identities = read_code(code_of(REALM, one, other))
    assert realm == REALM
    assert sorted(map(repr, identities)) == sorted(map(repr, (one, other)))


@given(text=st.text(max_size=300))
@settings(max_examples=50)
def test_any_other_text_is_no_code(text: str) -> None:
    with pytest.raises(MalformedStatementError):
        read_code(text)


@given(position=st.integers(0, 120), character=st.characters(codec="ascii"))
def test_a_code_that_was_altered_is_not_the_same(position: int, character: str) -> None:
    code = code_of(REALM, ALICE, BOB)
    altered = code[:position] + character + code[position + 1 :]
    if altered == code:
        return
    with pytest.raises((MalformedStatementError, SafetyNumberDiffersError)):
        compare_code(REALM, (ALICE, BOB), altered)
