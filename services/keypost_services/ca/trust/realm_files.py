"""The realm's files, in one folder: root and record keys, the signed RealmTrust, and those before it.

The root key is needed again only to sign the next RealmTrust: it belongs offline. The CA serves without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.realm_trust import (
    Constants,
    RealmTrust,
    ServedTrust,
    follow_realm_trust,
    sequence_of,
    sign_realm_trust,
)
from keypost.protocol.signing import Ed25519Signer
from keypost_services.ca.files import read_small, write_private
from keypost_services.ca.trust.key_files import (
    KeyFileError,
    load_public_keys,
    load_signer,
    public_pem,
    write_key,
)
from keypost_services.ca.trust.realm import Realm
from keypost_services.ca.trust.signing import LocalSigner

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.ca.trust.key_files import AskPassphrase

_LARGEST_STATEMENT = 1024 * 1024


class RealmFilesError(Exception):
    """A file of the realm is missing, is there already, or is not what it should be."""


@dataclass(frozen=True)
class RealmFolder:
    """Where the files of a realm are."""

    path: Path

    @property
    def root_key(self) -> Path:
        """The private root key that the realm began with: take it offline."""
        return self.path / "root.key"

    @property
    def root_public(self) -> Path:
        """The public root keys that the realm began with (PEM, one after the other)."""
        return self.path / "root.pem"

    @property
    def record_key(self) -> Path:
        """The first private record key."""
        return self.path / "record.key"

    @property
    def record_keys(self) -> tuple[Path, ...]:
        """The private record keys that are there."""
        return tuple(sorted(self.path.glob("record*.key")))

    @property
    def realm_trust(self) -> Path:
        """The signed RealmTrust (protobuf JSON)."""
        return self.path / "realm-trust.json"

    @property
    def earlier(self) -> Path:
        """The folder of the statements before it by which root keys handed over, by sequence."""
        return self.path / "earlier"

    @property
    def earlier_statements(self) -> tuple[Path, ...]:
        """The files in it, oldest first."""
        return tuple(sorted(self.earlier.glob("*.json"), key=lambda file: (len(file.name), file.name)))

    @property
    def files(self) -> tuple[Path, ...]:
        """What a realm begins with."""
        return (self.root_key, self.root_public, self.record_key, self.realm_trust)


def create_realm(
    folder: RealmFolder,
    realm: str,
    constants: Constants,
    validity: int,
    now: int,
    *,
    passphrase: str | None = None,
) -> RealmTrust:
    """Make a realm: root key, first record key, RealmTrust number 1. Overwrites nothing.

    Args:
        folder: Is created if it is not there; the files are readable by their owner alone.
        realm: The realm's name.
        constants: The realm's constants.
        validity: How long statement and record key are valid, milliseconds.
        now: Unix milliseconds.
        passphrase: Seals the root key; None: nothing does.

    Raises:
        RealmFilesError: One of the files is there already, or cannot be written.
    """
    for file in folder.files:
        if file.exists():
            raise RealmFilesError(f"{file} is there already: nothing is overwritten")
    root, record = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root_signer, record_signer = Ed25519Signer(root), Ed25519Signer(record)
    statement = _first_statement(realm, root_signer, record_signer, constants, now, now + validity)
    signed = sign_realm_trust(statement, root_signer)
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_key(folder.root_key, root, passphrase)
        write_key(folder.record_key, record, None)
        write_private(folder.root_public, public_pem(root_signer.public_key_der))
        write_private(folder.realm_trust, statement_json(signed))
    except OSError as error:
        raise RealmFilesError(f"cannot write the realm's files: {error}") from error
    return load_trust(folder, now)


def load_trust(folder: RealmFolder, now: int) -> RealmTrust:
    """Return the verified RealmTrust of a folder.

    Raises:
        RealmFilesError: as ``load_realm``.
    """
    return load_realm(folder, now).trust


def load_realm(folder: RealmFolder, now: int) -> Realm:
    """Return what a folder says of its realm, verified from the root keys that the realm began with; without signers.

    Args:
        folder: The realm's.
        now: Unix milliseconds.

    Raises:
        RealmFilesError: A file is missing, or a statement is not signed by a root key of the one before, or expired.
    """
    try:
        first = load_public_keys(folder.root_public)
    except KeyFileError as error:
        raise RealmFilesError(str(error)) from error
    served = load_statements(folder)
    try:
        realm = pb.RealmTrust.FromString(served.signed.realm_trust).realm
        trust = follow_realm_trust(served, realm=realm, root_keys=first, now=now)
    except (KeypostError, DecodeError) as error:
        raise RealmFilesError(f"{folder.realm_trust}: {error}") from error
    return Realm(trust, served.earlier, first)


def load_statements(folder: RealmFolder) -> ServedTrust:
    """Return the statements of a folder, unverified.

    Raises:
        RealmFilesError: one cannot be read.
    """
    signed = load_statement(folder.realm_trust)
    earlier = [load_statement(file) for file in folder.earlier_statements]
    try:
        # The installation keeps a statement before another takes its place: after a crash it may be there twice.
        before = [one for one in earlier if sequence_of(one) < sequence_of(signed)]
    except KeypostError as error:
        raise RealmFilesError(f"{folder.realm_trust}: {error}") from error
    return ServedTrust(signed, tuple(before))


def load_signers(files: tuple[Path, ...], ask: AskPassphrase) -> tuple[LocalSigner, ...]:
    """Return who signs records, one a key. Where a key is kept elsewhere than in a file, this is the place to say so.

    Args:
        files: Private keys.
        ask: Called for the passphrase, if one is sealed.

    Raises:
        RealmFilesError: A file holds no Ed25519 private key, or is not opened by the passphrase.
    """
    try:
        return tuple(LocalSigner(load_signer(file, ask)) for file in files)
    except KeyFileError as error:
        raise RealmFilesError(str(error)) from error


def load_statement(file: Path) -> pb.SignedRealmTrust:
    """Return the SignedRealmTrust in a file, unverified.

    Raises:
        RealmFilesError: it holds none.
    """
    try:
        return json_format.Parse(read_file(file), pb.SignedRealmTrust())
    except (json_format.ParseError, ValueError) as error:
        raise RealmFilesError(f"{file} holds no SignedRealmTrust as protobuf JSON") from error


def statement_json(signed: pb.SignedRealmTrust) -> bytes:
    """Return a SignedRealmTrust as the content of a file."""
    return json_format.MessageToJson(signed).encode() + b"\n"


def read_file(file: Path) -> bytes:
    """Return the content of a small file.

    Raises:
        RealmFilesError: it cannot be read, or is not small.
    """
    try:
        return read_small(file, _LARGEST_STATEMENT)
    except OSError as error:
        raise RealmFilesError(f"cannot read {file}: {error.strerror}") from error


def _first_statement(
    realm: str,
    root: Ed25519Signer,
    record: Ed25519Signer,
    constants: Constants,
    from_time: int,
    until_time: int,
) -> pb.RealmTrust:
    return pb.RealmTrust(
        realm=realm,
        sequence=1,
        root_keys=[pb.RootKey(public_key_der=root.public_key_der)],
        record_keys=[pb.RecordKey(public_key_der=record.public_key_der, from_time=from_time, until_time=until_time)],
        constants=constants.to_message(),
        until_time=until_time,
    )
