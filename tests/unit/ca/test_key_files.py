"""Private keys in files: what opens them, and what does not."""

from __future__ import annotations

import base64
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keypost.protocol.signing import Ed25519Signer
from keypost_services.ca.trust.key_files import (
    Cost,
    KeyFileError,
    load_public_key,
    load_public_keys,
    load_signer,
    public_pem,
    seal,
    unsealed,
    write_key,
)
from support.realm import seeded_signer

if TYPE_CHECKING:
    from pathlib import Path

KEY = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")
CHEAP = Cost(memory=64, iterations=1, lanes=1)


def never() -> str:
    raise AssertionError("nothing is sealed here")


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    file = tmp_path / "root.key"
    file.write_bytes(seal(KEY, "correct horse", CHEAP))
    return file


def test_the_passphrase_opens_a_sealed_key(sealed: Path) -> None:
    signer = load_signer(sealed, lambda: "correct horse")
    assert signer.sign(b"data") == seeded_signer(1).sign(b"data")


@pytest.mark.parametrize("passphrase", ["", "Correct horse", "correct horse "])
def test_another_passphrase_does_not(sealed: Path, passphrase: str) -> None:
    with pytest.raises(KeyFileError, match="does not open"):
        load_signer(sealed, lambda: passphrase)


def test_a_sealed_key_shows_its_public_key_and_nothing_else(sealed: Path) -> None:
    assert load_public_key(sealed) == seeded_signer(1).public_key_der
    raw = KEY.private_bytes_raw()
    for form in (raw, raw.hex().encode(), base64.b64encode(raw)):
        assert form not in sealed.read_bytes()


@pytest.mark.parametrize("field", ["public_key_der", "sealed_key", "nonce", "argon2id.salt", "argon2id.iterations"])
def test_whatever_is_changed_in_it_it_does_not_open(sealed: Path, field: str) -> None:
    fields = json.loads(sealed.read_text())
    outer, _, inner = field.partition(".")
    place, name = (fields[outer], inner) if inner else (fields, outer)
    place[name] = _changed(place[name])
    sealed.write_text(json.dumps(fields))
    with pytest.raises(KeyFileError, match="does not open"):
        load_signer(sealed, lambda: "correct horse")


def _changed(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    digit = "B" if value[5] != "B" else "C"
    return value[:5] + digit + value[6:]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "keypost sealed key 2"},
        {"nonce": "00"},
        {"nonce": "xyz"},
        {"argon2id": None},
        {"argon2id": {"memory": 2**40, "iterations": 1, "lanes": 1, "salt": "00" * 16}},
        {"argon2id": {"memory": 64, "iterations": 10**9, "lanes": 1, "salt": "00" * 16}},
        {"sealed_key": 7},
    ],
)
def test_what_is_no_sealed_key_is_refused_before_anybody_is_asked(sealed: Path, changes: dict[str, Any]) -> None:
    sealed.write_text(json.dumps(json.loads(sealed.read_text()) | changes))
    with pytest.raises(KeyFileError, match="no sealed key"):
        load_signer(sealed, never)


def test_a_key_that_nothing_seals_is_pem(tmp_path: Path) -> None:
    file = tmp_path / "record.key"
    write_key(file, KEY, None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_signer(file, never).public_key_der == load_public_key(file) == seeded_signer(1).public_key_der
    with pytest.raises(FileExistsError):
        write_key(file, KEY, None)


def test_public_keys_are_read_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    keys = tuple(seeded_signer(seed).public_key_der for seed in (1, 2))
    file.write_bytes(b"".join(map(public_pem, keys)))
    assert load_public_keys(file) == keys
    with pytest.raises(KeyFileError, match="more than 1"):
        load_public_key(file)


def test_what_holds_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    file, other = tmp_path / "key", ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    encrypted = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    for content in (b"", b"no key", pem, encrypted, b"x" * 100_000):
        file.write_bytes(content)
        with pytest.raises(KeyFileError, match="key"):
            load_signer(file, never)
        with pytest.raises(KeyFileError, match="key"):
            load_public_key(file)
    with pytest.raises(KeyFileError, match="cannot read"):
        load_signer(tmp_path / "none", never)


def test_the_default_cost_is_that_of_the_rfc() -> None:
    assert Cost() == Cost(memory=64 * 1024, iterations=3, lanes=4)
    assert Cost().is_bearable()


def test_an_unsealed_key_is_the_same_key() -> None:
    key = serialization.load_pem_private_key(unsealed(KEY), None)
    assert isinstance(key, Ed25519PrivateKey)
    assert Ed25519Signer(key).public_key_der == seeded_signer(1).public_key_der
