from __future__ import annotations

import asyncio
import json
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import keyring
import pytest
from keyring.backends import chainer, fail, null
from keyring.errors import InitError, PasswordSetError

from keypost import Client
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.keystore import (
    KeyRingUnavailableError,
    KeyStoreTamperedError,
    SystemKeyRing,
    WrongPassphraseError,
    create_store,
    open_store,
)
from support.key_ring import MemoryKeyRing, PoorKeyRing
from support.key_store import BUNDLE, REALM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyring.backend import KeyringBackend


@pytest.fixture
def ring() -> MemoryKeyRing:
    return MemoryKeyRing()


@pytest.fixture
def system() -> Iterator[type[System]]:
    yield System
    System.reset()


class System:
    """The key ring of this process, as the library finds it."""

    @staticmethod
    def use(backend: KeyringBackend) -> None:
        keyring.set_keyring(backend)

    @staticmethod
    def reset() -> None:
        keyring.core._keyring_backend = None


def test_each_store_has_an_entry_of_its_own(ring: MemoryKeyRing) -> None:
    unlock = SystemKeyRing(ring)
    one, other = unlock.prepare(), unlock.prepare()
    assert unlock.derive(one) != unlock.derive(other)
    assert set(ring.entries) == {("keypost", json.loads(parameters)["entry"]) for parameters in (one, other)}
    assert {len(entry) for _, entry in ring.entries} == {32}


def test_two_profiles_do_not_open_each_other(ring: MemoryKeyRing, tmp_path: Path) -> None:
    for name in ("one", "other"):
        create_store(tmp_path / name, SystemKeyRing(ring), realm=REALM, bundle=BUNDLE).close()
    one, other = list(ring.entries)
    ring.entries[one], ring.entries[other] = ring.entries[other], ring.entries[one]
    with pytest.raises(WrongPassphraseError, match="entry for this profile was changed"):
        open_store(tmp_path / "one", SystemKeyRing(ring))


@pytest.mark.parametrize("text", ["", "ab", "x" * 64, "AB" * 32, "ab" * 33])
def test_an_entry_that_is_no_key_is_told_and_not_quoted(ring: MemoryKeyRing, text: str) -> None:
    unlock = SystemKeyRing(ring)
    parameters = unlock.prepare()
    ring.entries = dict.fromkeys(ring.entries, text)
    with pytest.raises(WrongPassphraseError, match="was changed") as refused:
        unlock.derive(parameters)
    assert not text or f" {text}" not in str(refused.value)


def test_an_entry_that_is_not_there_is_told(ring: MemoryKeyRing) -> None:
    unlock = SystemKeyRing(ring)
    parameters = unlock.prepare()
    ring.entries.clear()
    with pytest.raises(WrongPassphraseError, match="no entry for this profile"):
        unlock.derive(parameters)


@pytest.mark.parametrize(
    "parameters", ["", "[]", "{}", "5", '{"entry": 5}', '{"entry": "x"}', f'{{"entry": "{"ab" * 17}"}}']
)
def test_changed_parameters_name_no_other_entry(ring: MemoryKeyRing, parameters: str) -> None:
    with pytest.raises(KeyStoreTamperedError):
        SystemKeyRing(ring).derive(parameters)


def test_a_locked_key_ring_is_told_when_made_and_when_opened(ring: MemoryKeyRing, tmp_path: Path) -> None:
    unlock = SystemKeyRing(ring)
    create_store(tmp_path / "one", unlock, realm=REALM, bundle=BUNDLE).close()
    ring.lock()
    with pytest.raises(KeyRingUnavailableError, match="is locked"):
        open_store(tmp_path / "one", unlock)
    with pytest.raises(KeyRingUnavailableError, match="is locked"):
        create_store(tmp_path / "other", unlock, realm=REALM, bundle=BUNDLE)
    ring.trouble = None
    open_store(tmp_path / "one", unlock).close()


@pytest.mark.parametrize("kind", [PasswordSetError, InitError, OSError, ValueError])
def test_one_that_refuses_is_told_in_words_of_our_own(ring: MemoryKeyRing, kind: type[Exception]) -> None:
    ring.trouble = kind("cannot keep 'the very secret'")
    with pytest.raises(KeyRingUnavailableError, match=f"refuses or does not answer .{kind.__name__}") as refused:
        SystemKeyRing(ring).prepare()
    assert "very secret" not in "".join(traceback.format_exception(refused.value))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "keyring"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(KeyRingUnavailableError, match=r"pip install 'keypost\[keyring\]'"):
        SystemKeyRing().prepare()


def test_the_systems_key_ring_is_used(system: type[System], ring: MemoryKeyRing) -> None:
    system.use(ring)
    assert SystemKeyRing().derive(SystemKeyRing().prepare()).hex() in ring.entries.values()


@pytest.mark.parametrize("backend", [fail.Keyring, null.Keyring, PoorKeyRing], ids=["none", "null", "plain file"])
def test_what_keeps_no_secrets_is_not_used(system: type[System], backend: type[KeyringBackend]) -> None:
    system.use(backend())
    for use in (lambda: SystemKeyRing().prepare(), lambda: SystemKeyRing().derive(f'{{"entry": "{"ab" * 16}"}}')):
        with pytest.raises(KeyRingUnavailableError, match="no key ring that keeps secrets"):
            use()


def test_what_is_handed_over_is_used_as_it_is() -> None:
    unlock = SystemKeyRing(PoorKeyRing())
    assert len(unlock.derive(unlock.prepare())) == 32


def test_of_a_chain_only_what_is_recommended_is_used(
    system: type[System], ring: MemoryKeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor, second = PoorKeyRing(), MemoryKeyRing()
    system.use(chainer.ChainerBackend())  # type: ignore[no-untyped-call]
    monkeypatch.setattr(chainer.ChainerBackend, "backends", [poor, ring, second])
    parameters = SystemKeyRing().prepare()
    assert (len(poor.entries), len(ring.entries), len(second.entries)) == (0, 1, 0)
    second.entries, ring.entries = ring.entries, {}
    assert len(SystemKeyRing().derive(parameters)) == 32, "also where another one comes first now"
    poor.entries, second.entries = second.entries, {}
    with pytest.raises(WrongPassphraseError):
        SystemKeyRing().derive(parameters)


class SlowKeyRing(MemoryKeyRing):
    """Answers when the loop has gone on: a person is asked to unlock it."""

    def __init__(self, asked: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.asked, self.loop, self.answered = asked, loop, threading.Event()

    def set_password(self, service: str, username: str, password: str) -> None:
        self.loop.call_soon_threadsafe(self.asked.set)
        assert self.answered.wait(20), "the event loop was blocked"
        self.lock()
        super().set_password(service, username, password)


async def test_the_event_loop_goes_on_while_the_key_ring_asks(tmp_path: Path) -> None:
    ring = SlowKeyRing(asyncio.Event(), asyncio.get_running_loop())
    bundle = pb.Bundle(realm=REALM, root_keys=[pb.RootKey()])
    for name in ("ca", "directory", "delivery"):
        setattr(bundle.endpoints, name, "127.0.0.1:1")
    opening = asyncio.create_task(Client.open(tmp_path / "p", unlock=SystemKeyRing(ring), bundle=bundle))
    await ring.asked.wait()
    ring.answered.set()
    with pytest.raises(KeyRingUnavailableError):
        await opening
