"""What a newcomer's first commands say when something is not as it must be."""

from __future__ import annotations

import json
import secrets
import socket
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost_services.embedded.layout import settings_of
from keypost_services.embedded.processes import clean_environment
from support.command_line import User
from support.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keypost_services.embedded.stack import Stack


def test_a_wrong_passphrase_is_told_as_such(people: tuple[User, User]) -> None:
    alice, _ = people
    wrong = {"KEYPOST_PASSPHRASE": "wrong"}
    failure = alice.fail("devices", variables=wrong)
    assert failure.code == 6
    assert "passphrase is wrong" in failure.sentence
    assert failure.sentence.lower().count("try again") == 1
    code, error = alice.fail_json("devices", variables=wrong)
    assert (code, error["reason"]) == (6, "WRONG_PASSPHRASE")


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{nobody.getsockname()[1]}"


def test_services_that_are_not_there_are_named_with_their_address(stack: Stack, nowhere: str, tmp_path: Path) -> None:
    bundle = json.loads(stack.layout.bundle.read_text())
    bundle["endpoints"] = dict.fromkeys(bundle["endpoints"], nowhere)
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    elsewhere = ("--bundle", str(tmp_path / "bundle.json"))
    newcomer = User(stack, "somebody", tmp_path / "p")
    failure = newcomer.fail("enroll", "somebody", options=elsewhere)
    assert failure.code == 3
    assert f"service at {nowhere} does not answer (UNREACHABLE)" in failure.sentence
    assert failure.sentence.count("(") == 2, "one code, and the hint's example"
    assert "make up" in failure.sentence
    code, error = newcomer.fail_json("enroll", "somebody", options=elsewhere)
    assert (code, error["reason"], error["facts"]["endpoint"]) == (3, "UNREACHABLE", nowhere)


def test_a_profile_that_nobody_enrolled_is_told(stack: Stack, tmp_path: Path) -> None:
    newcomer = User(stack, "newcomer", tmp_path / "p")
    failure = newcomer.fail("enroll", "newcomer", "--code", "AAAA-AAAA")
    assert failure.code == 2
    assert "a one-time code is 26 letters and digits" in failure.sentence
    assert "keypost-ca code" in failure.sentence
    code, error = newcomer.fail_json("devices")
    assert (code, error["reason"]) == (5, "NOT_ENROLLED")
    assert "enroll USERNAME" in error["hint"]


def test_a_profile_that_is_not_there_is_not_made_by_the_way(stack: Stack, tmp_path: Path) -> None:
    nobody = User(stack, "nobody", tmp_path / "p")
    code, error = nobody.fail_json("send", "bob", "hi")
    assert (code, error["reason"]) == (6, "KEY_STORE_MISSING")
    assert not nobody.profile.exists()


@pytest.fixture(scope="module")
def strict_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose CA enrols by one-time codes, as it does unless it is told otherwise."""

    def strict(*arguments: Any, **where: Any) -> dict[str, str]:
        return {name: value for name, value in settings_of(*arguments, **where).items() if name != "KEYPOST_CA_SIGN_IN"}

    with ExitStack() as opened:
        with pytest.MonkeyPatch.context() as patch:
            # No longer: the stack of other tests may be started while this one is up.
            patch.setattr("keypost_services.embedded.stack.settings_of", strict)
            stack = opened.enter_context(running_stack(tmp_path_factory.mktemp("strict")))
        yield stack


def make_code(stack: Stack, username: str) -> str:
    """Make a one-time code as an administrator does, while the CA serves."""
    layout = stack.layout
    command = [sys.executable, "-m", "keypost_services.ca", "code", username, "--json"]
    options = ["--realm-folder", str(layout.realm_folder), "--database", layout.database]
    done = subprocess.run([*command, *options], env=clean_environment({}), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["code"])


def let_codes_expire(stack: Stack, username: str) -> None:
    with closing(sqlite3.connect(stack.layout.database.removeprefix("sqlite:///"))) as database, database:
        assert database.execute("UPDATE one_time_codes SET expire_time = 1 WHERE username = ?", [username]).rowcount


def test_a_code_that_does_not_admit_is_told_with_the_way_to_a_new_one(strict_stack: Stack, tmp_path: Path) -> None:
    gina = User(strict_stack, f"gina-{secrets.token_hex(4)}", tmp_path / "gina")
    code = make_code(strict_stack, gina.name)
    assert "You are" in gina.run("enroll", gina.name, "--code", code)
    hugo = replace(gina, name="hugo", profile=tmp_path / "hugo")
    of_somebody_else, expired = make_code(strict_stack, "ida"), make_code(strict_stack, "hugo")
    let_codes_expire(strict_stack, "hugo")
    attempts = {
        "none": ("enroll", "hugo"),
        "used up": ("enroll", gina.name, "--code", code),
        "of somebody else": ("enroll", "hugo", "--code", of_somebody_else),
        "expired": ("enroll", "hugo", "--code", expired),
    }
    for case, attempt in attempts.items():
        number, error = hugo.fail_json(*attempt)
        assert (number, error["reason"]) == (4, "SIGN_IN_REFUSED"), case
        assert "ask your administrator for a new one (`keypost-ca code USERNAME`)" in error["hint"], case
    failure = hugo.fail("enroll", "hugo")
    assert failure.code == 4
    assert "SIGN_IN_REFUSED" in failure.sentence
    assert "keypost-ca code" in failure.sentence
    assert "You are hugo/" in hugo.run("enroll", "hugo", "--code", make_code(strict_stack, "hugo")), "then it goes on"
