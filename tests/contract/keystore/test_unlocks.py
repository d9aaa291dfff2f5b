"""What every kind of unlock does, whatever it is."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import (
    KeyFile,
    KeyVariable,
    Passphrase,
    SystemKeyRing,
    WrongPassphraseError,
    create_memory_store,
    create_store,
    open_store,
)
from support.key_ring import MemoryKeyRing
from support.key_store import BUNDLE, CHEAP, REALM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keypost.keystore import Unlock

VARIABLE = "KEYPOST_TEST_KEY"


@dataclass
class Kind:
    """One kind of unlock: the right one, what makes it wrong or takes it away, and the secret that nobody may see."""

    unlock: Unlock
    spoil: Callable[[], Unlock]
    take_away: Callable[[], Unlock] | None
    secret: Callable[[], str]


def passphrases() -> Kind:
    unlock = Passphrase("hush", CHEAP)
    return Kind(unlock, lambda: Passphrase("wrong", CHEAP), None, lambda: "hush")


def key_files(folder: Path) -> Kind:
    path = folder / "key"

    def spoil() -> Unlock:
        path.write_bytes(secrets.token_bytes(32))
        return KeyFile(path)

    def take_away() -> Unlock:
        path.unlink()
        return KeyFile(path)

    return Kind(KeyFile(path), spoil, take_away, lambda: path.read_bytes().hex())


def key_variables(patch: pytest.MonkeyPatch) -> Kind:
    def fill() -> Unlock:
        patch.setenv(VARIABLE, base64.b64encode(secrets.token_bytes(32)).decode())
        return KeyVariable(VARIABLE)

    def take_away() -> Unlock:
        patch.delenv(VARIABLE)
        return KeyVariable(VARIABLE)

    unlock = fill()
    text = base64.b64encode(unlock.derive("{}")).decode()
    return Kind(unlock, fill, take_away, lambda: text)


def key_rings() -> Kind:
    ring = MemoryKeyRing()

    def spoil() -> Unlock:
        ring.entries = dict.fromkeys(ring.entries, secrets.token_hex(32))
        return SystemKeyRing(ring)

    def take_away() -> Unlock:
        return SystemKeyRing(MemoryKeyRing())

    return Kind(SystemKeyRing(ring), spoil, take_away, lambda: next(iter(ring.entries.values())))


KINDS = ("passphrase", "key-file", "key-variable", "system-key-ring")
IN_WORDS = dict(zip(KINDS, ("a passphrase", "a key file", "a key variable", "the system key ring"), strict=True))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    makers: dict[str, Callable[[], Kind]] = {
        "passphrase": passphrases,
        "key-file": lambda: key_files(tmp_path),
        "key-variable": lambda: key_variables(monkeypatch),
        "system-key-ring": key_rings,
    }
    made = makers[str(request.param)]()
    assert made.unlock.kind == request.param
    return made


@pytest.fixture
def profile(kind: Kind, tmp_path: Path) -> Path:
    """A profile that this kind unlocks, with a note in it."""
    store = create_store(tmp_path / "profile", kind.unlock, realm=REALM, bundle=BUNDLE)
    store.profile.set_note("note", b"kept")
    store.close()
    return tmp_path / "profile"


def note(profile: Path, unlock: Unlock) -> bytes | None:
    store = open_store(profile, unlock)
    try:
        return store.profile.note("note")
    finally:
        store.close()


def test_it_yields_one_key_of_32_bytes_for_the_parameters_of_a_store(kind: Kind) -> None:
    parameters = kind.unlock.prepare()
    assert len(kind.unlock.derive(parameters)) == 32
    assert kind.unlock.derive(parameters) == kind.unlock.derive(parameters)


def test_it_opens_what_it_made(kind: Kind, profile: Path) -> None:
    assert note(profile, kind.unlock) == b"kept"


def test_a_wrong_one_is_told_and_changes_nothing(kind: Kind, profile: Path) -> None:
    wrong = kind.spoil()
    with pytest.raises(WrongPassphraseError) as refused:
        open_store(profile, wrong)
    assert str(refused.value) == wrong.wrong


def test_one_that_is_gone_is_told(kind: Kind, profile: Path) -> None:
    if kind.take_away is None:
        return  # nobody can take a passphrase away
    gone = kind.take_away()
    with pytest.raises(WrongPassphraseError) as refused:
        open_store(profile, gone)
    assert str(refused.value) != gone.wrong


def test_one_of_another_kind_is_told(kind: Kind, profile: Path, tmp_path: Path) -> None:
    other: Unlock = KeyFile(tmp_path / "other") if isinstance(kind.unlock, Passphrase) else Passphrase("x", CHEAP)
    own, others = IN_WORDS[kind.unlock.kind], IN_WORDS[other.kind]
    with pytest.raises(WrongPassphraseError, match=f"unlocked by {own}, not by {others}"):
        open_store(profile, other)


def test_a_profile_can_change_to_it_and_from_it(kind: Kind, tmp_path: Path) -> None:
    first, last = Passphrase("first", CHEAP), Passphrase("last", CHEAP)
    store = create_store(tmp_path / "changing", first, realm=REALM, bundle=BUNDLE)
    store.profile.set_note("note", b"kept")
    store.change_unlock(kind.unlock)
    store.close()
    with pytest.raises(WrongPassphraseError):
        open_store(tmp_path / "changing", first)
    store = open_store(tmp_path / "changing", kind.unlock)
    store.change_unlock(last)
    store.close()
    with pytest.raises(WrongPassphraseError):
        open_store(tmp_path / "changing", kind.unlock)
    assert note(tmp_path / "changing", last) == b"kept"


def test_it_unlocks_a_store_in_memory(kind: Kind) -> None:
    create_memory_store(kind.unlock, realm=REALM, bundle=BUNDLE).close()


def test_no_repr_parameters_or_file_show_its_secret(kind: Kind, profile: Path) -> None:
    secret, shown = kind.secret(), repr(kind.unlock) + kind.unlock.prepare()
    assert secret not in shown
    assert all(secret.encode() not in path.read_bytes() for path in profile.iterdir())
