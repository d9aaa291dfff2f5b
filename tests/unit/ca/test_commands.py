"""The commands as they are typed, in this process."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest
from google.protobuf import json_format
from typer.testing import CliRunner

from keypost.clock import DAY
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.ca import command_line
from keypost_services.ca.audit import BEGINNING, Act, Action, ActorKind, chain
from keypost_services.ca.audit_lines import facts_of
from keypost_services.ca.codes import MadeCode
from keypost_services.ca.command_line import app
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.trust.realm_files import RealmFolder, load_trust
from keypost_services.runtime.lock import FileLock
from support.clock import START

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def run(*arguments: object) -> Result:
    environment = {"KEYPOST_CA_PASSPHRASE": "correct horse"}
    return CliRunner(env=environment).invoke(app, [str(argument) for argument in arguments])


def assert_fails(result: Result, *words: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(word in lines[-1] for word in words), lines


@pytest.fixture
def realm(tmp_path: Path) -> Path:
    folder = tmp_path / "realm"
    assert run("init", folder, "--realm", "example.org", "--json").exit_code == 0
    return folder


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ca.db'}"


def test_with_json_a_failure_is_one_object_on_standard_error(realm: Path) -> None:
    arguments = ("init", realm, "--realm", "example.org")
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    failure = json.loads(result.stderr)
    assert "nothing is overwritten" in failure.pop("sentence")
    assert failure == {"event": "error", "reason": "USAGE", "hint": None, "facts": {}}
    assert run(*arguments).stderr == f"{json.loads(result.stderr)['sentence']}\n"


@pytest.mark.parametrize("arguments", [["admin", "show"], ["admin", "revoke", "alice", "a", "--reason", "none"]])
def test_with_json_what_is_typed_wrongly_is_an_object_too(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.run([*arguments, "--json"]) == 2
    said = capsys.readouterr()
    assert (said.out, json.loads(said.err)["reason"]) == ("", "USAGE")
    assert command_line.run(arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("audit", "verify", "--file", "missing.jsonl"), "FILE"),
        (("audit", "verify", "--file", "altered.jsonl"), "AUDIT_BROKEN"),
        (("after-restore", "--audit", "missing.jsonl", "--yes", "--database", "sqlite:///ca.db"), "FILE"),
        (("after-restore", "--audit", "altered.jsonl", "--yes", "--database", "sqlite:///ca.db"), "AUDIT_BROKEN"),
        (("after-restore", "--audit", "altered.jsonl", "--database", "sqlite:///ca.db"), "NOT_CONFIRMED"),
        (("after-restore", "--yes", "--database", "sqlite:///ca.db"), "USAGE"),
    ],
)
def test_with_json_programs_can_tell_failures_apart(
    arguments: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (entry,) = chain(BEGINNING, [Act(START, Action.ENROLLED, ActorKind.SIGN_IN, "open", "alice")])
    (tmp_path / "altered.jsonl").write_text(json.dumps(facts_of(entry) | {"username": "bob"}) + "\n")
    assert json.loads(run(*arguments, "--json").stderr)["reason"] == reason


@pytest.mark.parametrize("command", ["init", "serve", "bundle", "code", "migrate"])
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_the_help_of_serve_documents_the_settings() -> None:
    shown = run("serve", "--help").stdout
    for name in ("KEYPOST_CA_DATABASE", "KEYPOST_CA_REALM_FOLDER", "KEYPOST_CA_SIGN_IN", "KEYPOST_CA_RECORD_KEY"):
        assert name in shown


def test_init_prints_fingerprints(tmp_path: Path) -> None:
    shown = run("init", tmp_path / "realm", "--realm", "example.org").stdout
    trust = load_trust(RealmFolder(tmp_path / "realm"), START - 200 * DAY)
    assert trust.constants.allowed_suites == (STRONG.id,)
    assert f"record key fingerprint: {trust.record_keys[0].fingerprint.hex()}" in shown
    assert "root key fingerprint: " in shown
    assert "offline" in shown


def test_init_takes_the_realms_constants(tmp_path: Path) -> None:
    suites = ["--suites", "RSA3072_AES256,RSA1024_AES128"]
    times = ["--record-lifetime", "30m", "--mailbox-age", "10d", "--rotation-messages", "5"]
    result = run("init", tmp_path / "realm", "--realm", "example.org", *suites, *times, "--json")
    made = json.loads(result.stdout)
    trust = load_trust(RealmFolder(tmp_path / "realm"), made["until_time"] - DAY)
    assert trust.constants.allowed_suites == (STRONG.id, WEAK.id)
    assert trust.constants.record_lifetime == parse_duration("30m")
    assert (trust.constants.mailbox_age, trust.constants.rotation_messages) == (10 * DAY, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--realm", "Example"], ["realm"]),
        (["--realm", "example.org", "--suites", "ROT13"], ["ROT13", "RSA3072_AES256"]),
        (["--realm", "example.org", "--suites", ""], ["suite"]),
        (["--realm", "example.org", "--retention", "60"], ["'60'", "duration"]),
        (["--realm", "example.org", "--retention", "30d"], ["retention"]),
        (["--realm", "example.org", "--longest-key-lifetime", "399d"], ["398d"]),
        (["--realm", "example.org", "--validity", "soon"], ["soon"]),
    ],
)
def test_init_refuses(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    assert_fails(run("init", tmp_path / "realm", *arguments), *words)
    assert not (tmp_path / "realm").exists()


def test_init_overwrites_nothing(realm: Path) -> None:
    before = {file: file.read_bytes() for file in realm.iterdir()}
    assert_fails(run("init", realm, "--realm", "example.org"), "nothing is overwritten")
    assert {file: file.read_bytes() for file in realm.iterdir()} == before


def bundle_arguments(realm: Path, roots: Path) -> list[object]:
    endpoints = ["--ca", "ca:1", "--directory", "directory:2", "--delivery", "delivery:3"]
    return ["bundle", "--realm-folder", realm, "--tls-roots", roots, *endpoints]


def test_a_bundle_is_printed_or_written(realm: Path, tmp_path: Path) -> None:
    roots, output = tmp_path / "roots.pem", tmp_path / "bundle.json"
    roots.write_text(CERTIFICATE)
    printed = run(*bundle_arguments(realm, roots)).stdout
    bundle = json_format.Parse(printed, pb.Bundle())
    endpoints = bundle.endpoints
    assert (bundle.realm, bundle.tls_roots_pem) == ("example.org", CERTIFICATE)
    assert (endpoints.ca, endpoints.directory, endpoints.delivery) == ("ca:1", "directory:2", "delivery:3")
    trust = load_trust(RealmFolder(realm), START - 200 * DAY)
    assert tuple(key.public_key_der for key in bundle.root_keys) == trust.root_keys
    assert run(*bundle_arguments(realm, roots), "--output", output).stdout == ""
    assert json_format.Parse(output.read_text(), pb.Bundle()) == bundle


@pytest.mark.parametrize("content", ["", "no PEM", "-----BEGIN PRIVATE KEY-----", CERTIFICATE + "PRIVATE KEY", "ü"])
def test_a_bundle_takes_certificates_alone(realm: Path, tmp_path: Path, content: str) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_text(content)
    assert_fails(run(*bundle_arguments(realm, roots)), "roots.pem")


def test_a_bundle_needs_a_realm(tmp_path: Path) -> None:
    assert_fails(run(*bundle_arguments(tmp_path, tmp_path)), "root.pem")
    assert_fails(run(*bundle_arguments(tmp_path, tmp_path / "none")), "root.pem")


def test_a_bundle_that_cannot_be_written_says_so(realm: Path, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_text(CERTIFICATE)
    assert_fails(run(*bundle_arguments(realm, roots), "--output", tmp_path), str(tmp_path))


def test_a_code_is_kept_as_a_hash_alone(realm: Path, database: str, tmp_path: Path) -> None:
    assert run("migrate", "--database", database, "--json").stdout == '{"step": "0004"}\n'
    result = run("code", "alice", "--realm-folder", realm, "--database", database, "--expires", "1h", "--json")
    made = json.loads(result.stdout)
    assert (len(made["code"]), made["username"]) == (26, "alice")
    assert made["code"].encode() not in (tmp_path / "ca.db").read_bytes()
    with sqlite3.connect(tmp_path / "ca.db") as connection:
        rows = connection.execute("SELECT username, expire_time, code_hash FROM one_time_codes").fetchall()
    connection.close()
    ((username, expire_time, code_hash),) = rows
    assert (username, expire_time, len(code_hash)) == ("alice", made["expire_time"], 32)
    assert made["code_id"] == code_hash.hex()[:16]
    assert stat.S_IMODE((tmp_path / "ca.db").stat().st_mode) == 0o600


def test_a_code_is_printed_for_people(realm: Path, database: str) -> None:
    run("migrate", "--database", database)
    shown = run("code", "alice", "--realm-folder", realm, "--database", database).stdout
    assert [line.split(": ")[0] for line in shown.splitlines()] == ["code", "code id", "username", "expire time"]
    assert shown.endswith(" UTC\n")


@pytest.mark.parametrize(
    ("username", "expires", "words"),
    [("Alice", "1d", ["username"]), ("alice", "never", ["never"]), ("alice", "1d", ["keypost-ca migrate"])],
)
def test_a_code_is_refused(realm: Path, database: str, username: str, expires: str, words: list[str]) -> None:
    result = run("code", username, "--realm-folder", realm, "--database", database, "--expires", expires)
    assert_fails(result, *words)


def test_a_code_needs_a_realm(tmp_path: Path, database: str) -> None:
    assert_fails(run("code", "alice", "--realm-folder", tmp_path, "--database", database), "root.pem")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("no url", "must be a database URL, such as sqlite:////"),
        ("mysql://localhost/ca", "must be of SQLite or PostgreSQL"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("postgresql://localhost", "must name a database"),
        ("postgresql+asyncpg://localhost/ca", "must begin with postgresql://"),
    ],
)
def test_a_database_is_an_sqlite_file_or_on_postgresql(url: str, why: str) -> None:
    assert_fails(run("migrate", "--database", url), why)


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert_fails(run("migrate", "--database", "postgresql://localhost/ca"), "install keypost[services,postgres]")


def test_sqlite_has_no_roles(database: str) -> None:
    assert_fails(run("migrate", "--database", database, "--grant", "keypost_ca"), "SQLite has no roles")


def test_a_database_that_cannot_be_used_says_so(realm: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'no' / 'folder.db'}"
    assert_fails(run("migrate", "--database", url), "cannot be opened")
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    broken = f"sqlite:///{tmp_path / 'broken.db'}"
    assert_fails(run("code", "alice", "--realm-folder", realm, "--database", broken), "cannot be used")


def test_a_database_of_a_newer_version_is_left_alone(database: str, tmp_path: Path) -> None:
    run("migrate", "--database", database)
    with sqlite3.connect(tmp_path / "ca.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert_fails(run("migrate", "--database", database), "which a newer version has taken")


def test_nobody_migrates_under_a_serving_ca(database: str, tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "ca.db.lock")
    lock.acquire()
    assert_fails(run("migrate", "--database", database), "another keypost-ca process")
    lock.release()
    lock.release()
    assert run("migrate", "--database", database).exit_code == 0


def test_a_wrong_setting_stops_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPOST_CA_SIGN_IN", "maybe")
    assert_fails(run("serve"), "KEYPOST_CA_")


def test_a_code_is_not_shown_by_accident() -> None:
    made = MadeCode("SECRETCODE", "0" * 16, "alice", START)
    assert "SECRETCODE" not in repr(made)
