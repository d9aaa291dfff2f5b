from __future__ import annotations

import pytest

from keypost.cli.qr import qr_code
from keypost.cli.verifying import _is_confirmed, lines_of
from keypost.client import SafetyNumber
from keypost.protocol.errors import SafetyNumberDiffersError
from keypost.protocol.safety_numbers import Identity, code_of
from support.qr import scanned

CODE = code_of("example.org", Identity("alice", 1, bytes(range(32))), Identity("bob", 2, bytes(32)))


@pytest.mark.parametrize("text", [CODE, "A", "x" * 1_024])
def test_a_code_is_scanned_as_it_was_drawn(text: str) -> None:
    assert scanned(qr_code(text)) == text


def test_digits_stand_in_a_block_of_groups() -> None:
    number = SafetyNumber("bob", "1234567890" * 6, CODE, verified=False, changed=False)
    assert lines_of(number) == ["    12345 67890 12345 67890"] * 3


@pytest.mark.parametrize(("typed", "confirmed"), [("y", True), (" YES ", True), ("", False), ("perhaps", False)])
def test_who_just_goes_on_confirms_nothing(monkeypatch: pytest.MonkeyPatch, typed: str, confirmed: bool) -> None:  # noqa: FBT001
    monkeypatch.setattr("builtins.input", lambda _: typed)
    assert _is_confirmed("?", "bob") == confirmed


def test_numbers_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "n")
    with pytest.raises(SafetyNumberDiffersError):
        _is_confirmed("?", "bob")
