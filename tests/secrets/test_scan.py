"""After the main job no secret that was used is anywhere but at home."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from support.secret_scan import Place, Scanner, Secret, encodings
from support.secret_story import Story, play

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = {
    "private key",
    "session key",
    "message key",
    "data key",
    "derived key",
    "key of a file",
    "key of a key ring",
    "key of a variable",
    "passphrase",
    "wrong passphrase",
    "one-time code",
    "wrong code",
    "token",
    "plaintext",
    "file",
    "backup key",
    "valkey password",
    "nonce secret",
    "private key root.key",
    "private key record.key",
    "private key ca/public.key",
    "private key delivery/internal.key",
    "private key administrators/operator.key",
}
FILES = {
    "logs/ca.log",
    "logs/directory.log",
    "logs/delivery.log",
    "valkey/valkey.log",
    "ca.db",
    "ca.db-wal",
    "ca.db-shm",
    "bundle.json",
    "backups/alice.backup",
    "profiles/alice/keystore.sqlite3",
    "profiles/alice-elsewhere/keystore.sqlite3",
    "profiles/bob/keystore.sqlite3",
    "profiles/carol/keystore.sqlite3",
    "profiles/dave/keystore.sqlite3",
    "profiles/dave.key-file",
    "profiles/erin/keystore.sqlite3",
    "profiles/frank/keystore.sqlite3",
}
LIVE = {
    *(
        f"valkey: {what}"
        for what in ("commands", "keys", "values", "values, read", "slow log", "clients", "information")
    ),
    *(f"{service}: /metrics" for service in ("ca", "directory", "delivery")),
    *(f"{part}: {what}" for part in ("valkey", "ca", "directory", "delivery") for what in ("command", "environment")),
}
HERE = {"log of this process", "errors", "events and steps", "reprs", "traces"}
SHOWN = {
    "Client",
    "Context",
    "DeviceKeyPair",
    "Event",
    "InboxMessage",
    "KeyFile",
    "KeyPair",
    "KeyRing",
    "KeyVariable",
    "Opening",
    "OutgoingMessage",
    "Passphrase",
    "Received",
    "ReceivedFile",
    "SealedEnvelope",
    "Sealer",
    "Sent",
    "Session",
    "Step",
    "StoredSession",
    "SystemKeyRing",
    "TokenSource",
}
"""Classes of which instances were shown, each of which holds a secret or something near one."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return play(tmp_path_factory.mktemp("secrets") / "s")


@pytest.fixture(scope="module")
def scanner(story: Story) -> Scanner:
    return Scanner(story.secrets)


def by_name(story: Story) -> Mapping[str, Place]:
    return {place.name: place for place in story.places}


def test_no_secret_is_astray(story: Story, scanner: Scanner) -> None:
    assert scanner.astray(story.places) == []


def test_every_kind_of_secret_was_used(story: Story) -> None:
    counted = Counter(secret.kind for secret in story.secrets)
    assert counted.keys() >= KINDS
    assert counted["token"] >= 2 * 10
    assert counted["session key"] >= 4


def test_every_place_was_read_and_holds_what_it_should(story: Story) -> None:
    places = by_name(story)
    assert places.keys() >= FILES | LIVE | HERE
    assert any(name.endswith(".aof") for name in places)
    assert [name for name, place in places.items() if place.marker not in place.content] == []
    assert [name for name in FILES | LIVE | HERE if not places[name].content] == []


def test_each_process_of_the_command_line_spoke(story: Story) -> None:
    spoken = {
        name.rpartition(":")[0]
        for name, place in by_name(story).items()
        if name.startswith("keypost ") and place.content
    }
    for words in ("enroll carol", "send bob", "send nobody-at-all", "renew", "devices", "receive"):
        assert any(name.endswith(words) for name in spoken), words
    assert {f"{name}: command" for name in spoken} <= by_name(story).keys()


def test_instances_of_the_classes_that_hold_secrets_were_shown(story: Story) -> None:
    assert story.shown.keys() >= SHOWN


def test_what_has_a_home_is_found_there(story: Story, scanner: Scanner) -> None:
    places = by_name(story)
    for secret in story.secrets:
        if not secret.homes:
            continue
        kinds = {finding.kind for home in secret.homes & places.keys() for finding in scanner.find(places[home])}
        assert secret.kind in kinds, secret.homes


def test_a_message_waits_sealed_where_everybody_may_look(story: Story) -> None:
    """The scan is of the right mailboxes: the envelopes of this story are in Valkey's file."""
    written = next(place for name, place in by_name(story).items() if name.endswith(".incr.aof"))
    assert b"carol" in written.content
    assert len(written.content) > 600_000, "the file that was sent twice is in there, sealed"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_of_secret_would_be_noticed_in_each_place(story: Story, scanner: Scanner, kind: str) -> None:
    secret = next(secret for secret in reversed(story.secrets) if secret.kind == kind)
    forms = [form for form in ("raw", "hex", "base64+1", "python", "json") if form in encodings(secret.value)]
    for number, place in enumerate(by_name(story).values()):
        text = encodings(secret.value)[forms[number % len(forms)]]
        middle = len(place.content) // 2 + number % 8
        planted = Place("planted", place.content[max(0, middle - 512) : middle] + text + place.content[middle:][:512])
        assert kind in {finding.kind for finding in scanner.astray([planted])}, place.name


def test_what_the_scan_found_is_told_without_showing_it(story: Story) -> None:
    secret = Secret("plaintext", next(one for one in story.secrets if one.kind == "plaintext").value)
    found = Scanner([secret]).astray([Place("place", secret.value)])
    assert found
    assert not Scanner([secret]).astray([Place("report", repr(found).encode())])
