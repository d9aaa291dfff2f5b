"""The command line, each command a process of its own, against one stack."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import support
from support.command_line import User

if TYPE_CHECKING:
    from keypost_services.embedded.stack import Stack


def test_a_conversation(people: tuple[User, User]) -> None:
    alice, bob = people
    assert "New session key" in alice.run("rotate", bob.name)
    assert "same session key (0 RSA operations)" in alice.run("send", bob.name, "Hello Bob")
    alice.run("send", bob.name, stdin="zweite Nachricht: ü".encode())
    shown = bob.run("receive")
    assert "Hello Bob" in shown
    assert "zweite Nachricht: ü" in shown
    assert "Nothing waits." in bob.run("receive")
    (sent,) = bob.run_json("send", alice.name, "Hello Alice")
    assert (sent["event"], sent["new_session"]) == ("sent", False)
    (message,) = alice.run_json("receive")
    assert (message["event"], message["text"], message["redelivered"]) == ("message", "Hello Alice", False)


def test_steps_are_shown_on_request(people: tuple[User, User]) -> None:
    alice, bob = people
    alice.run("rotate", bob.name)
    events = bob.run_json("receive", options=("--steps",))
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(8, 15))


def test_a_count_ends_the_waiting_and_marks_what_was_shown(people: tuple[User, User]) -> None:
    alice, bob = people
    for text in ("one", "two", "three"):
        alice.run("send", bob.name, text)
    assert [event["text"] for event in bob.run_json("receive", "--count", "2")] == ["one", "two"]
    assert [(event["text"], event["redelivered"]) for event in bob.run_json("receive")] == [("three", False)]


def test_a_file_goes_across_and_overwrites_nothing(people: tuple[User, User], tmp_path: Path) -> None:
    alice, bob = people
    content = os.urandom(700_000)
    (tmp_path / "photo.jpg").write_bytes(content)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "photo.jpg").write_bytes(b"mine")
    sent = alice.run_json("send", bob.name, "--file", str(tmp_path / "photo.jpg"))[-1]
    assert sent["sha256"] == hashlib.sha256(content).hexdigest()
    bob.run("receive", "--output-dir", str(inbox))
    assert (inbox / "photo.jpg").read_bytes() == b"mine"
    assert (inbox / "photo (1).jpg").read_bytes() == content


def test_a_renewal_and_the_keys_that_everybody_sees(people: tuple[User, User]) -> None:
    alice, bob = people
    (renewed,) = alice.run_json("renew")
    (table,) = bob.run_json("keys", alice.name)
    states = {row["fingerprint"]: row["state"] for row in table["rows"]}
    assert states[renewed["fingerprint"]] == "good"
    assert sorted(states.values()) == ["good", "superseded"]
    assert "alice" in alice.run("devices")
    assert "superseded" in alice.run("keys", alice.name)


def test_the_weak_suite_is_refused_unless_asked_for(stack: Stack, tmp_path: Path) -> None:
    failure = User(stack, "weak", tmp_path / "p").fail("enroll", "weak", "--suite", "RSA1024_AES128")
    assert failure.code == 5
    assert "RSA1024_AES128" in failure.sentence
    allowed_here = ("--minimum-suite", "RSA1024_AES128")
    enroll = ("enroll", "weak", "--suite", "RSA1024_AES128")
    assert User(stack, "weak", tmp_path / "q").fail(*enroll, options=allowed_here).code in {4, 5}, "nor does the realm"


def test_an_unknown_user_is_a_refusal(people: tuple[User, User]) -> None:
    alice, _ = people
    failure = alice.fail("send", "nobody-at-all", "hi")
    assert failure.code == 4
    assert failure.sentence.count("USER_NOT_FOUND") == 1
    code, error = alice.fail_json("keys", "nobody-at-all")
    assert (code, error["reason"]) == (4, "USER_NOT_FOUND")


def test_the_key_ring_unlocks_a_profile(people: tuple[User, User], stack: Stack, tmp_path: Path) -> None:
    alice, _ = people
    erin = User(stack, f"erin-{secrets.token_hex(4)}", tmp_path / "erin")
    ring = {
        "PYTHON_KEYRING_BACKEND": "support.key_ring.FileKeyRing",
        "PYTHONPATH": str(Path(support.__path__[0]).parent),
        "KEY_RING_FILE": str(tmp_path / "ring"),
    }
    option = ("--key-ring",)
    assert "You are" in erin.run("enroll", erin.name, options=option, variables=ring)
    assert erin.name in erin.run("devices", variables=ring | {"KEYPOST_KEY_RING": "1"})
    alice.run("send", erin.name, "Hello Erin")
    assert "Hello Erin" in erin.run("receive", options=option, variables=ring)
    entry = next(iter(json.loads((tmp_path / "ring").read_text()).values()))
    assert all(entry.encode() not in path.read_bytes() for path in erin.profile.iterdir())
    code, error = erin.fail_json("devices", variables={"KEYPOST_PASSPHRASE": "secret"})
    assert (code, error["reason"]) == (6, "WRONG_PASSPHRASE")
    assert "unlocked by the system key ring, not by a passphrase" in error["sentence"]
    assert "--key-ring" in error["hint"]
    (tmp_path / "ring").write_text("{}")
    assert "no entry for this profile" in erin.fail("devices", options=option, variables=ring).sentence


def test_a_system_without_a_key_ring_is_told(stack: Stack, tmp_path: Path) -> None:
    frank = User(stack, "frank", tmp_path / "frank")
    none = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    code, error = frank.fail_json("enroll", "frank", options=("--key-ring",), variables=none)
    assert (code, error["reason"]) == (6, "KEY_RING_UNAVAILABLE")
    assert "no key ring that keeps secrets" in error["sentence"]
    assert "--key-file" in error["hint"]
