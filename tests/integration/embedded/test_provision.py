"""What compose.yaml's parts are given: once, each its own, readable by no other."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from keypost.clock import system_clock
from keypost_services.ca.trust.realm_files import RealmFilesError
from keypost_services.embedded.provision import PARTS, Wanted, main, provision

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINTS = {"ca": "127.0.0.1:1", "directory": "127.0.0.1:2", "delivery": "127.0.0.1:3"}
FOR_ITS_OWNER = {
    "tls.key",
    "record.key",
    "root.key",
    "pgpass",
    "limits-url",
    "cache-url",
    "mailboxes-url",
    "operator.key",
}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def wanted(folder: Path, **endpoints: str) -> Wanted:
    return Wanted(folder, "example.org", ENDPOINTS | endpoints)


def test_everything_is_made_once_and_bundles_follow_the_ports(tmp_path: Path) -> None:
    assert not provision(wanted(tmp_path), system_clock)
    made = contents(tmp_path)
    assert {name.partition("/")[0] for name in made} == set(PARTS)
    assert provision(wanted(tmp_path), system_clock)
    assert contents(tmp_path) == made
    assert provision(wanted(tmp_path, ca="127.0.0.1:9"), system_clock)
    changed = {name for name, content in contents(tmp_path).items() if content != made[name]}
    assert changed == {"directory/bundle/bundle.json", "delivery/bundle/bundle.json"}


def test_what_an_interrupted_run_left_is_made_anew(tmp_path: Path) -> None:
    provision(wanted(tmp_path), system_clock)
    before = contents(tmp_path)
    (tmp_path / "root" / "made").unlink()
    (tmp_path / "ca" / "left-behind").mkdir()
    assert not provision(wanted(tmp_path), system_clock)
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    assert after["postgres/keypost"] != before["postgres/keypost"]


def test_a_part_knows_its_own_secrets_and_no_other(tmp_path: Path) -> None:
    provision(wanted(tmp_path), system_clock)
    made = contents(tmp_path)
    passwords = {
        name: made[name].strip() for name in made if name.startswith("postgres/") or name.endswith("/password")
    }
    assert len(set(passwords.values())) == 5
    holders = {
        name: {file.partition("/")[0] for file, content in made.items() if password in content}
        for name, password in passwords.items()
    }
    assert holders == {
        "postgres/keypost": {"postgres", "migrations"},
        "postgres/keypost_ca": {"postgres", "ca"},
        "cache/password": {"cache", "directory"},
        "mailboxes/password": {"mailboxes", "delivery"},
        "limits/password": {"limits", "ca", "directory", "delivery"},
    }
    private = [content for name, content in made.items() if name.endswith(".key")]
    assert len(private) == len(set(private)) == 9, "a root key, a record key, six of services, an administrator's"
    assert [name for name in made if name.endswith("root.key")] == ["root/realm/root.key"]
    assert [name for name in made if name.endswith("record.key")] == ["ca/record-keys/record.key"]


def test_files_are_for_their_owner_or_the_group_that_a_store_is_in(tmp_path: Path) -> None:
    provision(wanted(tmp_path), system_clock)
    for path in (path for path in tmp_path.rglob("*") if path.is_file() and path.name != "made"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o007 == 0 or path.parent.name == "root", path
        if path.name in FOR_ITS_OWNER:
            assert mode == 0o600, path


def test_another_realm_or_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provision(wanted(tmp_path), system_clock)
    with pytest.raises(RealmFilesError, match=r"the realm is example\.org"):
        provision(Wanted(tmp_path, "example.net", ENDPOINTS), system_clock)
    named = [f"--{service}={address}" for service, address in ENDPOINTS.items()]
    assert main([str(tmp_path), "--realm", "Not A Realm", *named]) == 1
    assert capsys.readouterr().err.startswith("provision: a realm is")
    assert main([str(tmp_path / "nowhere"), *named]) == 1
    assert main([str(tmp_path), *named]) == 0
    assert capsys.readouterr().out == "all there already\n"
