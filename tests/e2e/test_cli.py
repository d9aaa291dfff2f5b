"""The command line, each command a process of its own, against one stack."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from support.stack import json_lines, keypost

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.stack import Stack


@dataclass(frozen=True)
class User:
    """A user of the command line with a profile of its own."""

    stack: Stack
    name: str
    profile: Path

    def run(self, *arguments: str, options: tuple[str, ...] = (), stdin: bytes | None = None) -> str:
        done = keypost(self.stack, self.profile, *arguments, options=options, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def run_json(
        self, *arguments: str, options: tuple[str, ...] = (), stdin: bytes | None = None
    ) -> list[dict[str, Any]]:
        return json_lines(self.run(*arguments, options=("--json", *options), stdin=stdin).encode())


@pytest.fixture(scope="module")
def people(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[User, User]:
    folder, suffix = tmp_path_factory.mktemp("profiles"), secrets.token_hex(4)
    alice, bob = (User(stack, f"{name}-{suffix}", folder / name) for name in ("alice", "bob"))
    for user in (alice, bob):
        assert f"You are {user.name}/" in user.run("enroll", user.name)
    return alice, bob


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


def failed(stack: Stack, profile: Path, *arguments: str, **more: Any) -> tuple[int, str]:
    done = keypost(stack, profile, *arguments, **more)
    sentence = done.stderr.decode()
    assert "Traceback" not in sentence
    return done.returncode, sentence


def test_the_weak_suite_is_refused_unless_asked_for(stack: Stack, tmp_path: Path) -> None:
    code, sentence = failed(stack, tmp_path / "p", "enroll", "weak", "--suite", "RSA1024_AES128")
    assert code == 5
    assert "RSA1024_AES128" in sentence
    allowed_here = ("--minimum-suite", "RSA1024_AES128")
    code, sentence = failed(stack, tmp_path / "q", "enroll", "weak", "--suite", "RSA1024_AES128", options=allowed_here)
    assert code in {4, 5}, "the realm does not allow it either"


def test_an_unknown_user_is_a_refusal(people: tuple[User, User]) -> None:
    alice, _ = people
    code, sentence = failed(alice.stack, alice.profile, "send", "nobody-at-all", "hi")
    assert code == 4
    assert "USER_NOT_FOUND" in sentence


def test_a_wrong_passphrase_is_told_as_such(people: tuple[User, User]) -> None:
    alice, bob = people
    code, sentence = failed(
        alice.stack, alice.profile, "send", bob.name, "hi", variables={"KEYPOST_PASSPHRASE": "wrong"}
    )
    assert code == 6
    assert "WRONG_PASSPHRASE" in sentence


def test_an_error_is_one_object_for_machines(people: tuple[User, User]) -> None:
    alice, _ = people
    done = keypost(alice.stack, alice.profile, "keys", "nobody-at-all", options=("--json",))
    (error,) = json_lines(done.stdout)
    assert (error["event"], error["reason"]) == ("error", "USER_NOT_FOUND")
    assert done.returncode == 4


def test_services_that_are_not_there_are_told(stack: Stack, tmp_path: Path) -> None:
    bundle = json.loads(stack.layout.bundle.read_text())
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
    bundle["endpoints"] = dict.fromkeys(bundle["endpoints"], address)
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    elsewhere = ("--bundle", str(tmp_path / "bundle.json"))
    code, sentence = failed(stack, tmp_path / "p", "enroll", "somebody", options=elsewhere)
    assert code == 3
    assert "UNREACHABLE" in sentence
