"""What a person is asked before something cannot be undone, and what happens where nobody is there."""

from __future__ import annotations

import io
import sys

import pytest

from keypost.cli.asking import NotConfirmedError, check_can_ask, confirm, read_pasted
from keypost.cli.errors import UsageError


class Typed(io.StringIO):
    """Standard input where somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["y\n", "yes\n", " YES \n"])
def test_who_says_yes_goes_on(typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    confirm("Sure?")
    assert capsys.readouterr() == ("", "Sure? [y/n] "), "the question is not part of the result"


@pytest.mark.parametrize("typed", ["\n", "", "n\n", "yess\n", "perhaps\n"])
def test_whoever_says_anything_else_does_not(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    with pytest.raises(NotConfirmedError, match="nothing was done"):
        confirm("Sure?")


def test_nobody_is_asked_in_a_pipe_or_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed())
    check_can_ask(is_for_people=True)
    with pytest.raises(UsageError):
        check_can_ask(is_for_people=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError) as caught:
        check_can_ask(is_for_people=True)
    assert "--yes" in (caught.value.hint or "")


def test_a_text_is_given_piped_or_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_pasted("given", "request") == "given"
    monkeypatch.setattr(sys, "stdin", io.StringIO("pi\nped\n"))
    assert read_pasted(None, "request") == "pi\nped\n"
    monkeypatch.setattr(sys, "stdin", Typed("pasted\nand more"))
    assert read_pasted(None, "request") == "pasted"
    for nothing in (Typed("\n"), io.StringIO(" \n")):
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(UsageError, match="the request is missing"):
            read_pasted(None, "request")
