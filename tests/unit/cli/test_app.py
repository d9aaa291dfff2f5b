from __future__ import annotations

import getpass
import io
import json
import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest

from keypost.cli import __main__, passphrases, perform
from keypost.cli.app import run
from keypost.cli.commands import read_input
from keypost.cli.errors import UsageError
from keypost.cli.exit_codes import ExitCode
from keypost.cli.hints import hint_for
from keypost.client import Client
from keypost.keystore import KeyFile, Passphrase, SystemKeyRing
from keypost.keystore.copies import FILE_NAME
from keypost.protocol.errors import IdentityChangedError

if TYPE_CHECKING:
    from keypost.keystore import Unlock


@pytest.fixture(autouse=True)
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KEYPOST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(passphrases, "_somebody_is_there", lambda: False)


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
    said = capsys.readouterr().out
    assert all(f"  {code.value:>3}  {code.meaning}\n" in said for code in ExitCode)


def made_profile(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_bytes(b"something")
    return folder


BUNDLE, OTHER_BUNDLE = "bundle.json", "nowhere.json"


@dataclass(frozen=True)
class FirstRun:
    """A first attempt that goes wrong: what is typed, and what must be said."""

    arguments: tuple[str, ...]
    code: int
    reason: str
    sentence: str
    hint: str


FIRST_RUNS = {
    "no bundle": FirstRun(("enroll", "alice"), 2, "USAGE", "none is given", "--bundle FILE or KEYPOST_BUNDLE"),
    "no such bundle": FirstRun(
        ("--bundle", OTHER_BUNDLE, "enroll", "alice"), 2, "USAGE", f"no bundle at {OTHER_BUNDLE}", "make up"
    ),
    "what is no bundle": FirstRun(
        ("--bundle", BUNDLE, "enroll", "alice"), 2, "INVALID_FIELD", "is no bundle", "make up"
    ),
    "no profile": FirstRun(("devices",), 6, "KEY_STORE_MISSING", "no profile default", "enroll USERNAME"),
    "no profile, with a bundle": FirstRun(
        ("--bundle", BUNDLE, "send", "bob", "hi"), 6, "KEY_STORE_MISSING", "no profile default", "enroll USERNAME"
    ),
    "an unknown name": FirstRun(
        ("--profile", "wrok", "devices"), 6, "KEY_STORE_MISSING", "no profile wrok", "by --profile: home, work"
    ),
    "an unknown place": FirstRun(("--profile", "./a b", "devices"), 6, "KEY_STORE_MISSING", "a b", "'./a b'"),
    "two ways to unlock": FirstRun(
        ("--key-ring", "--key-file", "k", "enroll", "alice"), 2, "USAGE", "both are given", "KEYPOST_KEY_RING"
    ),
}


@pytest.fixture
def first_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with something that is no bundle, and a user with two profiles of other names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYPOST_PASSPHRASE", "secret")
    monkeypatch.setattr(platformdirs, "user_data_path", lambda _app: tmp_path / "data")
    (tmp_path / BUNDLE).write_text("no bundle")
    for name in ("work", "home"):
        made_profile(tmp_path / "data" / "profiles" / name)
    return tmp_path


@pytest.mark.parametrize("case", FIRST_RUNS)
def test_a_first_run_that_goes_wrong_says_what_and_what_to_do(
    case: str, first_day: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = FIRST_RUNS[case]
    before = sorted(first_day.rglob("*"))
    assert run(expected.arguments) == expected.code
    said = capsys.readouterr()
    assert said.out == ""
    sentence, *hint = said.err.splitlines()
    assert sentence.startswith("keypost: ")
    assert expected.sentence in sentence
    assert len(hint) == bool(expected.hint)
    assert expected.hint in "".join(hint)
    assert run(("--json", *expected.arguments)) == expected.code
    said = capsys.readouterr()
    assert said.err == ""
    (error,) = [json.loads(line) for line in said.out.splitlines()]
    assert (error["event"], error["reason"]) == ("error", expected.reason)
    assert expected.sentence in error["sentence"]
    assert expected.hint in (error["hint"] or "")
    assert sorted(first_day.rglob("*")) == before, "and nothing was made"


def test_without_a_passphrase_and_nobody_to_ask_it_says_how_to_give_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--profile", str(made_profile(tmp_path / "p")), "devices"]) == 2
    assert "KEYPOST_PASSPHRASE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "variables", "unlock"),
    [
        ([], {"KEYPOST_PASSPHRASE": "secret"}, Passphrase("secret")),
        (["--key-ring"], {"KEYPOST_PASSPHRASE": "secret"}, SystemKeyRing()),
        ([], {"KEYPOST_KEY_RING": "1"}, SystemKeyRing()),
        (["--key-file", "k"], {}, KeyFile(Path("k"))),
        ([], {"KEYPOST_KEY_FILE": "k"}, KeyFile(Path("k"))),
    ],
)
def test_the_profile_is_unlocked_as_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], variables: dict[str, str], unlock: Unlock
) -> None:
    seen: list[Unlock] = []

    async def opened(_profile: Path, **arguments: Any) -> None:
        seen.append(arguments["unlock"])
        raise UsageError("enough")

    monkeypatch.setattr(Client, "open", opened)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(["--profile", str(made_profile(tmp_path / "p")), *options, "devices"]) == 2
    assert seen == [unlock]


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("send",), ("receive", "--count", "x"), ("--nonsense", "devices")]
)
def test_wrong_usage_is_one_object_for_machines(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("--json", *arguments)) == 2
    said = capsys.readouterr()
    error = json.loads(said.out)
    assert (error["event"], error["reason"], said.err) == ("error", "USAGE", "")
    assert error["sentence"]


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"keypost {version('keypost')}\n"


def test_something_unforeseen_shows_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> Path:
        raise ZeroDivisionError(name)

    monkeypatch.setattr(perform, "profile_path", broken)
    assert run(["--profile", str(tmp_path), "devices"]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "Traceback" not in said
    monkeypatch.setenv("KEYPOST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["--profile", str(tmp_path), "devices"])


@pytest.mark.parametrize(("typed", "said"), [(["one", "two"], "differ"), ([""], "empty")])
def test_a_new_passphrase_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch, typed: list[str], said: str) -> None:
    monkeypatch.setattr(passphrases, "_somebody_is_there", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: typed.pop(0))
    with pytest.raises(UsageError, match=said):
        passphrases.ask_passphrase(new=True)


def test_the_passphrase_of_a_backup_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("KEYPOST_PASSPHRASE", "of the profile")
    monkeypatch.setattr(passphrases, "_somebody_is_there", lambda: True)

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    monkeypatch.setattr(getpass, "getpass", ask)
    assert passphrases.passphrase_for(passphrases.BACKUP, new=False).passphrase == "typed"
    assert asked == ["Passphrase of the backup: "]
    monkeypatch.setenv("KEYPOST_BACKUP_PASSPHRASE", "of the backup")
    assert passphrases.passphrase_for(passphrases.BACKUP, new=True).passphrase == "of the backup"
    assert passphrases.passphrase_for(passphrases.PROFILE, new=False).passphrase == "of the profile"


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
