"""Texts that people carry: what comes back is what was written, or a sentence that says what happened to it."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypost.errors import InvalidArgumentError
from keypost.protocol.texts import MOST_BYTES, MOST_CHARACTERS, TextKind, from_text, to_text

KINDS = st.sampled_from(TextKind)
DATA = st.binary(max_size=300)
EXAMPLE = to_text(TextKind.REQUEST, bytes(range(100)))
BEGINNING = len(TextKind.REQUEST.beginning)


def refused(text: str, kind: TextKind = TextKind.REQUEST) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        from_text(kind, text)
    assert caught.value.metadata["field"] == kind.value
    return str(caught.value)


@given(kind=KINDS, data=DATA)
def test_a_text_gives_back_what_it_carries(kind: TextKind, data: bytes) -> None:
    text = to_text(kind, data)
    assert from_text(kind, text) == data
    assert set(text) <= set(string.ascii_uppercase + string.digits + "-:"), "what a QR code packs best"


@given(kind=KINDS, data=DATA, width=st.integers(1, 80))
def test_line_breaks_and_small_letters_do_no_harm(kind: TextKind, data: bytes, width: int) -> None:
    text = to_text(kind, data).lower()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    assert from_text(kind, "\r\n ".join(lines) + "\n") == data


@given(data=DATA, place=st.integers(0), letter=st.sampled_from(string.ascii_uppercase + "234567"))
def test_no_letter_can_be_another(data: bytes, place: int, letter: str) -> None:
    text = to_text(TextKind.REQUEST, data)
    at = BEGINNING + place % (len(text) - BEGINNING)
    changed = text[:at] + letter + text[at + 1 :]
    if changed == text:
        assert from_text(TextKind.REQUEST, changed) == data
    else:
        refused(changed)


@given(data=DATA, keep=st.integers(0))
def test_no_end_can_be_missing(data: bytes, keep: int) -> None:
    text = to_text(TextKind.REQUEST, data)
    refused(text[: keep % len(text)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "does not begin with KEYPOST-REQUEST-1:"),
        ("hello", "does not begin with KEYPOST-REQUEST-1:"),
        (EXAMPLE[1:], "does not begin with KEYPOST-REQUEST-1:"),
        (to_text(TextKind.INVITATION, b"x"), "it says that it is of kind invitation"),
        (EXAMPLE.replace("-1:", "-2:"), "of version 2"),
        (EXAMPLE[: BEGINNING + 3], "was cut"),
        (EXAMPLE[:-7], "7 of 170 characters are missing"),
        (EXAMPLE + "AB", "2 more follow"),
        (EXAMPLE[:40] + "8" + EXAMPLE[41:], "character 41 is none of A-Z 2-7"),
        (EXAMPLE[:40] + "é" + EXAMPLE[41:], "character 41 is none of A-Z 2-7"),
        (EXAMPLE[:BEGINNING] + "77" + EXAMPLE[BEGINNING + 2 :], "its length cannot be"),
        ("A" * (MOST_CHARACTERS + 1), "no text of at most 16384 characters"),
    ],
)
def test_what_went_wrong_is_said(text: str, sentence: str) -> None:
    assert sentence in refused(text)


def test_a_mistyped_letter_is_told_from_a_cut() -> None:
    other = "A" if EXAMPLE[60] != "A" else "B"
    assert "mistyped" in refused(EXAMPLE[:60] + other + EXAMPLE[61:])


def test_one_request_has_one_text() -> None:
    """The bits of the last letter that carry nothing are zero."""
    text = to_text(TextKind.REQUEST, b"x")
    last = string.ascii_uppercase + "234567"
    assert len([text for letter in last if _reads(text[:-1] + letter)]) == 1


def _reads(text: str) -> bool:
    try:
        from_text(TextKind.REQUEST, text)
    except InvalidArgumentError:
        return False
    return True


def test_the_longest_text_can_be_pasted() -> None:
    text = to_text(TextKind.REQUEST, bytes(MOST_BYTES))
    assert from_text(TextKind.REQUEST, re.sub("(.{64})", r"\1\n", text)) == bytes(MOST_BYTES)
