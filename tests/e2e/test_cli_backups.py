"""Backups by the command line, against one stack: a move to new hardware, and what a thief gets."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.command_line import User

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.stack import Stack

SECRET = {"KEYPOST_PASSPHRASE": "secret", "KEYPOST_BACKUP_PASSPHRASE": "of the backup"}


@pytest.fixture
def people(stack: Stack, tmp_path: Path) -> tuple[User, User]:
    """Alice and Bob, whose devices no other test has stopped."""
    suffix = secrets.token_hex(4)
    alice, bob = (User(stack, f"{name}-{suffix}", tmp_path / name) for name in ("alice", "bob"))
    for user in (alice, bob):
        user.run("enroll", user.name)
    return alice, bob


def test_a_profile_moves_to_new_hardware(people: tuple[User, User], tmp_path: Path) -> None:
    alice, bob = people
    file = tmp_path / "bob.backup"
    (made,) = [one for one in bob.run_json("backup", str(file), variables=SECRET) if one["event"] == "backed_up"]
    assert made == {"event": "backed_up", "path": str(file), "kept": False}
    alice.run("send", bob.name, "unread when the old machine died")
    new = replace(bob, profile=tmp_path / "new")
    events = new.run_json("restore", str(file), variables=SECRET)
    assert [event["event"] for event in events if event["event"] != "file_progress"] == ["notice", "restored"]
    assert "unread when the old machine died" in new.run("receive")
    failure = bob.fail("send", alice.name, "from the old machine")
    assert failure.code == 5
    assert "DEVICE_KEY_STOLEN" in failure.sentence
    assert "restored elsewhere?" in failure.sentence
    assert "Sent to" in new.run("send", alice.name, "from the new one")
    assert "from the new one" in alice.run("receive")


def test_a_backup_is_kept_until_it_is_stopped(people: tuple[User, User], tmp_path: Path) -> None:
    _, bob = people
    file = tmp_path / "kept.backup"
    assert "before each renewal" in bob.run("backup", str(file), "--keep", variables=SECRET)
    before = file.read_bytes()
    bob.run("renew")
    kept = file.read_bytes()
    assert kept != before
    bob.run("backup", "--stop")
    bob.run("renew")
    assert file.read_bytes() == kept


def test_a_stale_backup_says_what_it_is_good_for(people: tuple[User, User], tmp_path: Path) -> None:
    alice, bob = people
    file = tmp_path / "stale.backup"
    bob.run("backup", str(file), variables=SECRET)
    bob.run("renew")
    new = replace(bob, profile=tmp_path / "new")
    failure = new.fail("restore", str(file), variables=SECRET)
    assert "BACKUP_STALE" in failure.sentence
    assert "Enroll anew" in failure.sentence
    assert "BACKUP_STALE" in new.fail("send", alice.name, "no").sentence
    assert "Sent to" in bob.run("send", alice.name, "the other one goes on")


def test_what_is_wrong_is_told_and_leaves_nothing(people: tuple[User, User], tmp_path: Path) -> None:
    _, bob = people
    file, new = tmp_path / "a.backup", replace(bob, profile=tmp_path / "new")
    bob.run("backup", str(file), variables=SECRET)
    wrong = SECRET | {"KEYPOST_BACKUP_PASSPHRASE": "another one"}
    assert "wrong for this backup" in new.fail("restore", str(file), variables=wrong).sentence
    assert "cannot be read" in new.fail("restore", str(tmp_path / "nowhere"), variables=SECRET).sentence
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-1])
    assert "is cut" in new.fail("restore", str(tmp_path / "cut"), variables=SECRET).sentence
    code, error = bob.fail_json("backup", str(file), variables=SECRET)
    assert (code, error["reason"]) == (6, "BACKUP_EXISTS")
    assert "KEY_STORE_EXISTS" in bob.fail("restore", str(file), variables=SECRET).sentence
    assert "needs a FILE" in bob.fail("backup", variables=SECRET).sentence
    assert not new.profile.exists()


@pytest.mark.parametrize("spoilt", ["root key", "realm", "no JSON"])
def test_a_wrong_bundle_leaves_nothing_and_the_backup_is_as_good_as_before(
    people: tuple[User, User], tmp_path: Path, spoilt: str
) -> None:
    _, bob = people
    file, new = tmp_path / "a.backup", replace(bob, profile=tmp_path / "new")
    bob.run("backup", str(file), variables=SECRET)
    bundle = json.loads(bob.stack.layout.bundle.read_text())
    if spoilt == "root key":
        stranger = Ed25519PrivateKey.generate().public_key()
        der = stranger.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        bundle["rootKeys"][0]["publicKeyDer"] = base64.b64encode(der).decode()
    if spoilt == "realm":
        bundle["realm"] = "elsewhere.example"
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{" if spoilt == "no JSON" else json.dumps(bundle))
    failure = new.fail("restore", str(file), variables=SECRET, options=("--bundle", str(wrong)))
    assert "bundle" in failure.sentence
    assert not new.profile.exists()
    assert "You are" in new.run("restore", str(file), variables=SECRET)
