from __future__ import annotations

import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keypost.clock import DAY
from keypost.protocol.errors import UnknownRecordKeyError
from keypost.protocol.realm_trust import Constants
from keypost_services.ca.trust.realm_files import (
    RealmFilesError,
    RealmFolder,
    create_realm,
    load_realm,
    load_signers,
    load_trust,
)
from support.clock import START

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.protocol.realm_trust import RealmTrust

REALM = "example.org"


@pytest.fixture
def folder(tmp_path: Path) -> RealmFolder:
    return RealmFolder(tmp_path / "realm")


def no_passphrase() -> str:
    raise AssertionError


def create(folder: RealmFolder) -> RealmTrust:
    return create_realm(folder, REALM, Constants(), 365 * DAY, START)


def test_a_realm_is_made_and_read(folder: RealmFolder) -> None:
    trust = create(folder)
    assert (trust.realm, trust.sequence, trust.constants) == (REALM, 1, Constants())
    assert trust.until_time == START + 365 * DAY
    assert load_trust(folder, START) == trust
    (signer,) = load_signers(folder.record_keys, no_passphrase)
    assert signer.public_key_der == trust.record_keys[0].public_key_der
    assert replace(load_realm(folder, START), signers=(signer,)).active(START) == (trust.record_keys[0], signer)


def test_the_files_are_their_owners_alone(folder: RealmFolder) -> None:
    create(folder)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.files} == {0o600}


@pytest.mark.parametrize("name", ["root.key", "root.pem", "record.key", "realm-trust.json"])
def test_nothing_is_overwritten(folder: RealmFolder, name: str) -> None:
    folder.path.mkdir()
    (folder.path / name).write_text("precious")
    with pytest.raises(RealmFilesError, match="nothing is overwritten"):
        create(folder)
    assert [file.name for file in folder.path.iterdir()] == [name]
    assert (folder.path / name).read_text() == "precious"


def test_a_folder_that_cannot_be_made_says_so(folder: RealmFolder) -> None:
    folder.path.write_text("a file")
    with pytest.raises(RealmFilesError, match="cannot write"):
        create(folder)


def test_the_ca_reads_its_realm_without_the_root_key(folder: RealmFolder) -> None:
    trust = create(folder)
    folder.root_key.unlink()
    assert load_trust(folder, START) == trust


def test_an_expired_statement_is_refused(folder: RealmFolder) -> None:
    create(folder)
    with pytest.raises(RealmFilesError, match="expired"):
        load_trust(folder, START + 365 * DAY)


def test_a_statement_of_another_root_is_refused(folder: RealmFolder, tmp_path: Path) -> None:
    create(folder)
    other = RealmFolder(tmp_path / "other")
    create(other)
    folder.root_public.write_bytes(other.root_public.read_bytes())
    with pytest.raises(RealmFilesError, match="root key"):
        load_trust(folder, START)


def test_several_root_keys_are_read(folder: RealmFolder, tmp_path: Path) -> None:
    trust = create(folder)
    other = RealmFolder(tmp_path / "other")
    create(other)
    folder.root_public.write_bytes(other.root_public.read_bytes() + folder.root_public.read_bytes())
    assert load_trust(folder, START) == trust


def _elliptic_pems() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", _elliptic_pems()[1]]
)
def test_what_is_no_root_key_is_refused(folder: RealmFolder, content: bytes) -> None:
    create(folder)
    folder.root_public.write_bytes(content)
    with pytest.raises(RealmFilesError, match=r"root\.pem"):
        load_trust(folder, START)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"unknown": 1}', b'{"realmTrust": "AAAA"}', b"\xff"])
def test_what_is_no_statement_is_refused(folder: RealmFolder, content: bytes) -> None:
    create(folder)
    folder.realm_trust.write_bytes(content)
    with pytest.raises(RealmFilesError, match=r"realm-trust\.json"):
        load_trust(folder, START)


@pytest.mark.parametrize("content", [b"", b"no PEM", _elliptic_pems()[0]])
def test_what_is_no_record_key_is_refused(folder: RealmFolder, content: bytes) -> None:
    create(folder)
    folder.record_key.write_bytes(content)
    with pytest.raises(RealmFilesError, match=r"record\.key"):
        load_signers(folder.record_keys, no_passphrase)


def test_a_key_that_the_realm_does_not_list_signs_no_record(folder: RealmFolder) -> None:
    create(folder)
    signers = load_signers((folder.root_key,), no_passphrase)
    with pytest.raises(UnknownRecordKeyError, match="in force"):
        replace(load_realm(folder, START), signers=signers).active(START)
