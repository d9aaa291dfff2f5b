"""The part of the story whose profiles no passphrase unlocks: by ``keypost.sync``, and two in the weak suite."""

from __future__ import annotations

import base64
import os
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import KeypostError
from keypost.keystore import KeyFile, KeyVariable, SystemKeyRing
from keypost.protocol.suites import STRONG, WEAK
from keypost.sync import Client
from support.key_ring import MemoryKeyRing
from support.secret_scan import Secret

if TYPE_CHECKING:
    from keypost.keystore import Unlock
    from support.secret_story import Story

VARIABLE = "THE_KEY_OF_ERIN"
SUITES = {"dave": WEAK, "erin": WEAK, "frank": STRONG}


def talk_in_threads(story: Story) -> None:
    """Play the part, while a variable of this process holds a key."""
    key = secrets.token_bytes(32)
    key_file = story.folder / "profiles/dave.key-file"
    story.unlocks |= {"dave": KeyFile(key_file), "erin": KeyVariable(VARIABLE), "frank": SystemKeyRing(MemoryKeyRing())}
    story.secrets.append(Secret("key of a variable", key))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, base64.b64encode(key).decode())
        _talk(story)
        story.secrets.append(Secret("key of a file", key_file.read_bytes(), frozenset({"profiles/dave.key-file"})))
        _mistake_unlocks(story, patch)
        patch.setenv(VARIABLE, base64.b64encode(key).decode())
        story.collect_profiles(story.unlocks)
    ring: Any = story.unlocks["frank"]
    entries = ring.backend.entries.values()
    story.secrets += [Secret("key of a key ring", bytes.fromhex(entry)) for entry in entries]


def _open(story: Story, name: str, unlock: Unlock | None = None) -> Client:
    return Client.open(
        story.profile(name),
        unlock=unlock or story.unlocks[name],
        bundle=story.stack.layout.bundle,
        minimum_suite=SUITES[name],
        observer=story.seen.append,
        on_event=story.seen.append,
        generate=story.keys,
    )


def _talk(story: Story) -> None:
    with _open(story, "dave") as dave, _open(story, "erin") as erin, _open(story, "frank") as frank:
        for name, client in (("dave", dave), ("erin", erin), ("frank", frank)):
            client.enroll(name, code=story.code(name), suite=SUITES[name])
        dave.send("erin", story.text())
        erin.send("frank", story.text())
        frank.send("alice", story.text())
        erin.renew()
        for client in (erin, frank):
            for message in client.receive(follow=False):
                story.reprs += [repr(message), str(message)]
        story.reprs += [repr(one) for one in (dave, erin, frank, *story.unlocks.values())]


def _mistake_unlocks(story: Story, patch: pytest.MonkeyPatch) -> None:
    """Offer keys that are none, or another profile's: whoever does so gives away a good one of his own."""
    other = story.own_files / "other.key-file"
    other.write_bytes(secrets.token_bytes(32))
    story.secrets.append(Secret("key of a file", other.read_bytes()))
    wrong: dict[str, Unlock] = {
        "dave": KeyFile(other),
        "erin": KeyVariable(VARIABLE),
        "frank": SystemKeyRing(MemoryKeyRing()),
    }
    patch.setenv(VARIABLE, f"{os.environ[VARIABLE]}!")
    for name, unlock in wrong.items():
        with pytest.raises(KeypostError) as refused:
            _open(story, name, unlock)
        story.errors.append(refused.value)
