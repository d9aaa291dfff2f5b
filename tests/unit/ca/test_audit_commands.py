"""``keypost-ca audit`` as it is typed, in this process."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from keypost_services.ca.command_line import app

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database in whose log three codes are entered."""
    url = f"sqlite:///{tmp_path / 'ca.db'}"
    assert run("init", tmp_path / "realm", "--realm", "example.org", "--no-passphrase").exit_code == 0
    assert run("migrate", "--database", url).exit_code == 0
    for username in ("alice", "bob", "alice"):
        made = run("code", username, "--realm-folder", tmp_path / "realm", "--database", url)
        assert made.exit_code == 0
    return url


def head_of(database: str) -> str:
    result = run("audit", "verify", "--database", database, "--json")
    assert result.exit_code == 0
    return str(json.loads(result.stdout)["head"])


def tamper(folder: Path, *statements: str) -> None:
    """Do what somebody does who rules the database: the triggers are no obstacle to him."""
    with closing(sqlite3.connect(folder / "ca.db")) as database:
        for name in ("update", "delete", "insert"):
            database.execute(f"DROP TRIGGER audit_entries_{name}")
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_codes_made_on_the_cas_machine_are_listed_as_the_operators(database: str) -> None:
    lines = run("audit", "list", "--database", database).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["1", "2", "3"]
    assert all("code_made" in line and line.endswith("by operator") for line in lines)
    rows = [json.loads(line) for line in run("audit", "list", "--database", database, "--json").stdout.splitlines()]
    assert [(row["action"], row["actor_kind"], row["username"]) for row in rows] == [
        ("code_made", "operator", "alice"),
        ("code_made", "operator", "bob"),
        ("code_made", "operator", "alice"),
    ]


def test_the_log_has_the_hash_of_a_code_and_never_the_code(tmp_path: Path, database: str) -> None:
    made = run("code", "carol", "--realm-folder", tmp_path / "realm", "--database", database, "--json")
    code = json.loads(made.stdout)["code"]
    for arguments in (("list", "--json"), ("list",)):
        assert code not in run("audit", *arguments, "--database", database).stdout
    assert code.encode() not in b"".join(file.read_bytes() for file in tmp_path.glob("ca.db*"))


def test_entries_are_listed_by_user_and_time(database: str) -> None:
    def sequences(*arguments: str) -> list[int]:
        shown = run("audit", "list", "--database", database, "--json", *arguments).stdout.splitlines()
        return [json.loads(line)["sequence"] for line in shown]

    assert sequences("--user", "alice") == [1, 3]
    assert sequences("--since", "2000-01-01") == [1, 2, 3]
    assert sequences("--after", "1", "--user", "alice") == [3]
    assert sequences("--since", "2999-12-31T23:59") == []
    assert sequences("--until", "2000-01-01T00:00:00+02:00") == []
    wrong = run("audit", "list", "--database", database, "--since", "yesterday")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "2026-01-31" in wrong.stderr


def test_a_whole_log_verifies_and_says_its_head(database: str) -> None:
    result = run("audit", "verify", "--database", database)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["entries: 3", f"head: {head_of(database)}"]
    assert run("audit", "verify", "--database", database, "--head", head_of(database)).exit_code == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET username = 'mallory' WHERE sequence = 2",
        "UPDATE audit_entries SET actor_kind = 'nobody' WHERE sequence = 1",
        "UPDATE audit_entries SET revision = -1 WHERE sequence = 1",
        "UPDATE audit_entries SET evidence = 'text' WHERE sequence = 1",
        "UPDATE audit_entries SET revision = 'text' WHERE sequence = 1",
        "DELETE FROM audit_entries WHERE sequence = 1",
        "DELETE FROM audit_entries WHERE sequence = 2",
        "UPDATE audit_entries SET sequence = 4 WHERE sequence = 3",
    ],
)
def test_a_log_that_was_tampered_with_does_not_verify(tmp_path: Path, database: str, statement: str) -> None:
    tamper(tmp_path, statement)
    result = run("audit", "verify", "--database", database)
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1


def test_a_log_whose_end_was_cut_off_lacks_the_head_that_was_noted(tmp_path: Path, database: str) -> None:
    noted = head_of(database)
    tamper(tmp_path, "DELETE FROM audit_entries WHERE sequence = 3")
    assert run("audit", "verify", "--database", database).exit_code == 0
    result = run("audit", "verify", "--database", database, "--head", noted)
    assert result.exit_code == 1
    assert "3 was noted, and is gone" in result.stderr


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, database: str) -> None:
    wrong = [
        run("audit", "verify", "--database", database, "--head", "3"),
        run("audit", "list", "--database", f"sqlite:///{tmp_path / 'none.db'}"),
        run("audit", "list", "--database", "nonsense"),
    ]
    for result in wrong:
        assert (result.exit_code, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
