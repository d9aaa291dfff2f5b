from __future__ import annotations

import getpass
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from keypost.cli import __main__, session
from keypost.cli.app import run
from keypost.cli.commands import read_input
from keypost.cli.exit_codes import UsageError, hint_for
from keypost.protocol.errors import IdentityChangedError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYPOST_PASSPHRASE", raising=False)
    monkeypatch.setattr(session, "_somebody_is_there", lambda: False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("send",),
        ("enroll", "alice", "--suite", "ROT13"),
        ("--minimum-suite", "ROT13", "devices"),
        ("receive", "--count", "0"),
        ("--profile", " ", "devices"),
    ],
)
def test_wrong_usage_is_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "Exit codes" in capsys.readouterr().out


def test_without_a_passphrase_and_nobody_to_ask_it_says_how_to_give_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--profile", str(tmp_path / "p"), "devices"]) == 2
    assert "KEYPOST_PASSPHRASE" in capsys.readouterr().err


def test_a_profile_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEYPOST_PASSPHRASE", "secret")
    assert run(["--profile", str(tmp_path / "p"), "--json", "devices"]) == 6
    error = json.loads(capsys.readouterr().out)
    assert (error["event"], error["reason"]) == ("error", "KEY_STORE_MISSING")
    assert "enroll" in error["hint"]


def test_a_bundle_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEYPOST_PASSPHRASE", "secret")
    assert run(["--profile", str(tmp_path / "p"), "--bundle", str(tmp_path / "b"), "enroll", "alice"]) == 1
    assert "no bundle" in capsys.readouterr().err


def test_something_unforeseen_shows_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> Path:
        raise ZeroDivisionError(name)

    monkeypatch.setattr(session, "profile_path", broken)
    assert run(["--profile", str(tmp_path), "devices"]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "Traceback" not in said
    monkeypatch.setenv("KEYPOST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["--profile", str(tmp_path), "devices"])


@pytest.mark.parametrize(("typed", "said"), [(["one", "two"], "differ"), ([""], "empty")])
def test_a_new_passphrase_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch, typed: list[str], said: str) -> None:
    monkeypatch.setattr(session, "_somebody_is_there", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: typed.pop(0))
    with pytest.raises(UsageError, match=said):
        session.ask_passphrase(new=True)


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "NEEDS", ("rich", "no_such_module_at_all"))
    assert __main__.main() == 1
    assert "pip install 'keypost[cli]'" in capsys.readouterr().err


def test_the_command_line_is_the_one_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["keypost", "--help"])
    assert __main__.main() == 0
    assert "receive" in capsys.readouterr().out


def test_input_is_text_if_it_is_utf_8_and_bytes_otherwise() -> None:
    assert read_input(io.BytesIO("grüße".encode())) == "grüße"
    assert read_input(io.BytesIO(b"\xff\x00")) == b"\xff\x00"
    with pytest.raises(UsageError):
        read_input(io.BytesIO())


def test_a_changed_identity_comes_with_the_command_that_accepts_it() -> None:
    error = IdentityChangedError("changed", username="bob", root="ab" * 32)
    assert f"keypost accept bob {'ab' * 32}" in (hint_for(error) or "")
    assert "accept" not in (hint_for(IdentityChangedError("changed")) or "")
