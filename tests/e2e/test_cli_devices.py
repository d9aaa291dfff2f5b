"""Several devices of one user, by the command line against the real services."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from support.command_line import User
from support.pseudo_terminal import on_a_terminal
from support.qr import scanned

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.stack import Stack


@pytest.fixture
def alice(stack: Stack, tmp_path: Path) -> User:
    return enrolled(stack, tmp_path, "alice")


@pytest.fixture
def bob(stack: Stack, tmp_path: Path) -> User:
    return enrolled(stack, tmp_path, "bob")


def enrolled(stack: Stack, folder: Path, name: str) -> User:
    user = User(stack, f"{name}-{secrets.token_hex(4)}", folder / name)
    user.run("enroll", user.name)
    return user


def joined(alice: User, folder: Path, name: str = "second") -> User:
    """A further device of Alice, joined by plain pipes as a script would do it."""
    device = User(alice.stack, alice.name, folder / name)
    invitation = alice.run("devices", "invite").strip()
    request = device.run("join", invitation, "--no-wait")
    assert "is a device of yours" in alice.run("devices", "approve", "--yes", stdin=request.encode())
    assert f"You are {alice.name}/" in device.run("join")
    return device


def texts(user: User) -> list[str]:
    return [event["text"] for event in user.run_json("receive") if event["event"] == "message"]


def test_a_message_reaches_both_devices_and_after_a_revocation_the_good_one_alone(
    alice: User, bob: User, tmp_path: Path
) -> None:
    bob.run("send", alice.name, "before")
    second = joined(alice, tmp_path)
    bob.run("send", alice.name, "to both")
    assert texts(alice) == ["before", "to both"]
    assert texts(second) == ["to both"], "a new device opens nothing sealed before it"
    alice.run("devices", "name", row(second)["device"], "phone")
    (revoked,) = alice.run_json("devices", "revoke", "phone", "--reason", "lost", "--yes")
    assert revoked["ended"] == [revoked["device"]]
    bob.run("send", alice.name, "to the good one")
    assert texts(alice) == ["to the good one"]
    failure = second.fail("receive")
    assert (failure.code, "KEY_REVOKED" in failure.sentence) == (5, True)
    assert "keypost devices invite" in failure.sentence


def row(user: User) -> dict[str, str]:
    """Return the row of a device itself."""
    (table,) = user.run_json("devices")
    (own,) = [found for found in table["rows"] if found["this_device"]]
    return dict(own)


def test_both_devices_show_one_safety_number(alice: User, tmp_path: Path) -> None:
    device = User(alice.stack, alice.name, tmp_path / "second")
    (invited,) = alice.run_json("devices", "invite")
    assert invited["username"] == alice.name
    (asked,) = device.run_json("join", invited["invitation"], "--no-wait")
    assert asked["device"] == invited["device"]
    shown, approved = alice.run_json("devices", "approve", asked["request"], "--yes")
    assert (shown["event"], shown["fingerprint"]) == ("asked", asked["fingerprint"])
    (own,) = device.run_json("join")
    assert own["digits"] == approved["digits"]
    assert own["address"] == asked["device"]
    assert len(own["digits"]) == 30


def test_names_are_listed_on_the_device_that_gave_them(alice: User, tmp_path: Path) -> None:
    second = joined(alice, tmp_path)
    own = str(row(alice)["device"])
    assert "is laptop" in alice.run("devices", "name", own.partition("/")[2], "laptop")
    assert row(alice)["name"] == "laptop"
    assert "laptop" not in second.run("devices")
    assert "has no name" in alice.run("devices", "name", "laptop")
    assert row(alice)["name"] == "-"
    assert "no device laptop" in alice.fail("devices", "name", "laptop", "x").sentence


def test_what_cannot_be_undone_wants_a_yes(alice: User, tmp_path: Path) -> None:
    device = str(row(alice)["device"])
    fresh = User(alice.stack, alice.name, tmp_path / "fresh")
    for user, command in (
        (alice, ("devices", "revoke", device)),
        (alice, ("devices", "approve", "x")),
        (fresh, ("reset", alice.name)),
    ):
        failure = user.fail(*command)
        assert (failure.code, "--yes" in failure.sentence) == (2, True)
        code, error = user.fail_json(*command)
        assert (code, error["reason"]) == (2, "USAGE")
    assert not fresh.profile.exists(), "and nothing was made"
    assert row(alice)["state"] == "good"


def test_a_reset_is_announced_to_the_devices_and_cancelled(alice: User, tmp_path: Path) -> None:
    fresh = User(alice.stack, alice.name, tmp_path / "fresh")
    assert "APPROVAL_REQUIRED" in fresh.fail("enroll", alice.name).sentence
    (announced,) = fresh.run_json("reset", alice.name, "--yes")
    assert announced["reset_time"]
    notice, table = alice.run_json("devices")
    assert (notice["event"], notice["reason"], table["event"]) == ("notice", "RESET_ANNOUNCED", "devices")
    *_, cancelled = alice.run_json("devices", "cancel-reset")
    assert cancelled["event"] == "reset_cancelled"
    assert alice.run_json("devices", "cancel-reset")[-1]["revision"] == cancelled["revision"]


def test_what_is_pasted_wrongly_is_told(alice: User, tmp_path: Path) -> None:
    device = User(alice.stack, alice.name, tmp_path / "second")
    invitation = alice.run("devices", "invite").strip()
    cut = device.fail("join", invitation[:-4])
    assert (cut.code, "4 of" in cut.sentence) == (2, True)
    other = alice.fail("devices", "approve", invitation, "--yes")
    assert (other.code, "of kind invitation" in other.sentence) == (2, True)
    assert device.fail("join").code in {5, 6}
    assert "the request is missing" in alice.fail("devices", "approve", "--yes").sentence


def test_a_terminal_that_is_wide_enough_shows_codes_to_scan(alice: User, tmp_path: Path) -> None:
    shown = on_a_terminal(alice, "devices", "invite")
    invitation = scanned(shown)
    assert invitation in shown.splitlines()
    device = User(alice.stack, alice.name, tmp_path / "second")
    request = scanned(on_a_terminal(device, "join", invitation, "--no-wait"))
    narrow = on_a_terminal(device, "join", invitation, "--no-wait", COLUMNS="80")
    assert "a terminal of" in narrow
    assert request in narrow.splitlines()
    assert "Does the new device show" in (asked := on_a_terminal(alice, "devices", "approve", request, answer="n\n"))
    assert "(NOT_CONFIRMED)" in asked
    assert "is a device of yours" in on_a_terminal(alice, "devices", "approve", request, answer="y\n")
