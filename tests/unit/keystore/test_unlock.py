from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from keypost.errors import InvalidArgumentError
from keypost.keystore import Argon2Cost, KeyFile, KeyStoreTamperedError, KeyVariable, Passphrase, WrongPassphraseError
from support.key_store import CHEAP

if TYPE_CHECKING:
    from pathlib import Path


def test_a_passphrase_costs_what_the_specification_says() -> None:
    parameters = json.loads(Passphrase("secret").prepare())
    assert {name: parameters[name] for name in ("memory", "iterations", "lanes")} == {
        "memory": 64 * 1024,
        "iterations": 3,
        "lanes": 4,
    }
    assert len(bytes.fromhex(parameters["salt"])) == 16


def test_a_passphrase_yields_one_key_for_one_salt() -> None:
    passphrase = Passphrase("secret", CHEAP)
    one, other = passphrase.prepare(), passphrase.prepare()
    assert passphrase.derive(one) == passphrase.derive(one)
    assert passphrase.derive(one) != passphrase.derive(other)
    assert len(passphrase.derive(one)) == 32


def test_the_store_knows_its_cost_whatever_the_caller_thinks() -> None:
    parameters = Passphrase("secret", CHEAP).prepare()
    assert Passphrase("secret").derive(parameters) == Passphrase("secret", CHEAP).derive(parameters)


def test_a_passphrase_is_the_same_however_a_keyboard_composes_it() -> None:
    parameters = Passphrase("x", CHEAP).prepare()
    assert Passphrase("caf\u00e9", CHEAP).derive(parameters) == Passphrase("cafe\u0301", CHEAP).derive(parameters)


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        Passphrase("", CHEAP).prepare()


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": 1 << 40},
        {"memory": 1},
        {"iterations": 0},
        {"iterations": 1 << 20},
        {"lanes": 0},
        {"lanes": 1 << 20},
        {"salt": "00"},
        {"salt": "no hex"},
        {"salt": 5},
        {"memory": None},
    ],
)
def test_a_changed_file_cannot_ask_for_any_cost(changes: dict[str, object]) -> None:
    parameters = json.loads(Passphrase("secret", CHEAP).prepare())
    with pytest.raises(KeyStoreTamperedError):
        Passphrase("secret").derive(json.dumps(parameters | changes))


@pytest.mark.parametrize("parameters", ["", "[]", "{}", "5"])
def test_parameters_that_are_none_are_refused(parameters: str) -> None:
    with pytest.raises(KeyStoreTamperedError):
        Passphrase("secret").derive(parameters)


def test_a_key_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    key_file = KeyFile(tmp_path / "keys" / "key")
    parameters = key_file.prepare()
    assert len(key_file.derive(parameters)) == 32
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "keys" / "key").stat().st_mode) == 0o600


def test_a_key_file_that_is_there_is_used(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\x07" * 32)
    key_file = KeyFile(tmp_path / "key")
    assert key_file.derive(key_file.prepare()) == b"\x07" * 32


@pytest.mark.parametrize("content", [b"", b"\x07" * 31, b"\x07" * 33])
def test_a_file_of_another_length_is_no_key_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(WrongPassphraseError, match="no key file"):
        KeyFile(tmp_path / "key").derive("{}")


def test_a_key_file_that_cannot_be_read_or_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongPassphraseError, match="gone"):
        KeyFile(tmp_path / "gone").derive("{}")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WrongPassphraseError, match="cannot be made"):
        KeyFile(tmp_path / "file" / "key").prepare()


def test_a_variable_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPOST_TEST_KEY", base64.b64encode(b"\x07" * 32).decode() + "\n")
    variable = KeyVariable("KEYPOST_TEST_KEY")
    assert variable.derive(variable.prepare()) == b"\x07" * 32


@pytest.mark.parametrize("text", ["", "Zm9v", "not base64 !", "ü", base64.b64encode(bytes(33)).decode()])
def test_a_variable_that_holds_no_key_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KEYPOST_TEST_KEY", text)
    with pytest.raises(WrongPassphraseError, match="KEYPOST_TEST_KEY") as refused:
        KeyVariable("KEYPOST_TEST_KEY").derive("{}")
    assert not text or text not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYPOST_TEST_KEY", raising=False)
    with pytest.raises(WrongPassphraseError, match="KEYPOST_TEST_KEY is not set"):
        KeyVariable("KEYPOST_TEST_KEY").derive("{}")


def test_no_repr_shows_a_passphrase() -> None:
    assert "hush" not in repr(Passphrase("hush", Argon2Cost()))
