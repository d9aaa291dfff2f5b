"""The realm's files: root key, record key and the signed RealmTrust, in one folder.

The root key is needed again only to sign the next RealmTrust: it belongs offline. The CA serves without it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import fingerprint
from keypost.protocol.realm_trust import Constants, RealmTrust, read_realm_trust, sign_realm_trust
from keypost.protocol.signing import Ed25519Signer

if TYPE_CHECKING:
    from pathlib import Path

_PEM = serialization.Encoding.PEM
_DER = serialization.Encoding.DER
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


class RealmFilesError(Exception):
    """A file of the realm is missing, is there already, or is not what it should be."""


@dataclass(frozen=True)
class RealmFolder:
    """Where the files of a realm are."""

    path: Path

    @property
    def root_key(self) -> Path:
        """The private root key (PEM): take it offline."""
        return self.path / "root.key"

    @property
    def root_public(self) -> Path:
        """The public root keys (PEM, one after the other)."""
        return self.path / "root.pem"

    @property
    def record_key(self) -> Path:
        """The private record key (PEM)."""
        return self.path / "record.key"

    @property
    def realm_trust(self) -> Path:
        """The signed RealmTrust (protobuf JSON)."""
        return self.path / "realm-trust.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.root_key, self.root_public, self.record_key, self.realm_trust)


def create_realm(folder: RealmFolder, realm: str, constants: Constants, validity: int, now: int) -> RealmTrust:
    """Make a realm: root key, first record key, RealmTrust number 1. Overwrites nothing.

    Args:
        folder: Is created if it is not there; the files are readable by their owner alone.
        realm: The realm's name.
        constants: The realm's constants.
        validity: How long statement and record key are valid, milliseconds.
        now: Unix milliseconds.

    Raises:
        RealmFilesError: One of the files is there already, or cannot be written.
    """
    for file in folder.files:
        if file.exists():
            raise RealmFilesError(f"{file} is there already: nothing is overwritten")
    root, record = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    statement = _first_statement(realm, root, record, constants, now, now + validity)
    signed = sign_realm_trust(statement, Ed25519Signer(root))
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(folder.root_key, _private_pem(root))
        write_private(folder.record_key, _private_pem(record))
        write_private(folder.root_public, root.public_key().public_bytes(_PEM, _SPKI))
        write_private(folder.realm_trust, json_format.MessageToJson(signed).encode())
    except OSError as error:
        raise RealmFilesError(f"cannot write the realm's files: {error}") from error
    return load_trust(folder, now)


def load_trust(folder: RealmFolder, now: int) -> RealmTrust:
    """Return the verified RealmTrust of a folder.

    Raises:
        RealmFilesError: A file is missing, or the statement is not signed by a root key, or expired.
    """
    roots = _load_root_keys(folder.root_public)
    signed = _load_statement(folder.realm_trust)
    try:
        realm = pb.RealmTrust.FromString(signed.realm_trust).realm
        return read_realm_trust(signed, realm=realm, root_keys=roots, now=now)
    except (KeypostError, DecodeError) as error:
        raise RealmFilesError(f"{folder.realm_trust}: {error}") from error


def load_record_signer(file: Path, trust: RealmTrust, now: int) -> Ed25519Signer:
    """Return the signer of records.

    Raises:
        RealmFilesError: The file holds no Ed25519 key, or one that the realm does not list now.
    """
    try:
        key = serialization.load_pem_private_key(_read(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RealmFilesError(f"{file} holds no private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RealmFilesError(f"{file} holds a key that is not Ed25519")
    signer = Ed25519Signer(key)
    try:
        trust.record_key(fingerprint(signer.public_key_der), now)
    except KeypostError as error:
        raise RealmFilesError(f"{file}: {error}") from error
    return signer


def write_private(file: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; raises FileExistsError if it is there."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)


def _first_statement(
    realm: str,
    root: Ed25519PrivateKey,
    record: Ed25519PrivateKey,
    constants: Constants,
    from_time: int,
    until_time: int,
) -> pb.RealmTrust:
    record_der = record.public_key().public_bytes(_DER, _SPKI)
    return pb.RealmTrust(
        realm=realm,
        sequence=1,
        root_keys=[pb.RootKey(public_key_der=root.public_key().public_bytes(_DER, _SPKI))],
        record_keys=[pb.RecordKey(public_key_der=record_der, from_time=from_time, until_time=until_time)],
        constants=constants.to_message(),
        until_time=until_time,
    )


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _load_root_keys(file: Path) -> list[bytes]:
    end = b"-----END PUBLIC KEY-----"
    roots = []
    for block in _read(file).split(end)[:-1]:
        try:
            key = serialization.load_pem_public_key(block.strip() + b"\n" + end)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise RealmFilesError(f"{file} holds no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise RealmFilesError(f"{file} holds a key that is not Ed25519")
        roots.append(key.public_bytes(_DER, _SPKI))
    if not roots:
        raise RealmFilesError(f"{file} holds no public key in PEM")
    return roots


def _load_statement(file: Path) -> pb.SignedRealmTrust:
    try:
        return json_format.Parse(_read(file), pb.SignedRealmTrust())
    except (json_format.ParseError, ValueError) as error:
        raise RealmFilesError(f"{file} holds no SignedRealmTrust as protobuf JSON") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RealmFilesError(f"cannot read {file}: {error.strerror}") from error
