"""Private keys of the CA in files: sealed by a passphrase, or PKCS#8 in PEM where the file itself is the secret.

A sealed key is a JSON object. Argon2id (RFC 9106) makes a key of the passphrase; under it AES-256-GCM seals the 32
bytes of the Ed25519 private key, bound to the public key and to the cost beside it. The public key stands there in the
clear: to list keys, nobody has to open them. docs/adr/0020-sealed-key-files-and-signers.md says why not PKCS#8's own
encryption.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keypost.protocol.encoding import pae
from keypost.protocol.signing import Ed25519Signer
from keypost_services.ca.files import read_small, write_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    AskPassphrase = Callable[[], str]
    """Returns the passphrase of key files, from wherever it is; called only when one has to be opened."""

FORMAT = "keypost sealed key 1"
_LABEL = b"keypost/ca/sealed-key"
_KEY_BYTES, _SALT_BYTES, _NONCE_BYTES = 32, 16, 12
_MOST_MEMORY, _MOST_ITERATIONS, _MOST_LANES = 4 * 1024 * 1024, 64, 64
_LARGEST_FILE = 64 * 1024
_PEM, _DER = serialization.Encoding.PEM, serialization.Encoding.DER
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


class KeyFileError(Exception):
    """A key file is missing, is there already, or does not hold what it should; the message is for people."""


@dataclass(frozen=True)
class Cost:
    """What a guess at a passphrase costs (Argon2id; RFC 9106, section 4). Memory in KiB."""

    memory: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def is_bearable(self) -> bool:
        """Whether a machine can be asked for it: a changed file must not exhaust the memory."""
        return (
            1 <= self.lanes <= _MOST_LANES
            and 1 <= self.iterations <= _MOST_ITERATIONS
            and 8 * self.lanes <= self.memory <= _MOST_MEMORY
        )

    def derive(self, salt: bytes, passphrase: str) -> bytes:
        """Return the key that a passphrase makes: 32 bytes."""
        kdf = Argon2id(
            salt=salt, length=_KEY_BYTES, iterations=self.iterations, lanes=self.lanes, memory_cost=self.memory
        )
        return kdf.derive(passphrase.encode())


def write_key(file: Path, key: Ed25519PrivateKey, passphrase: str | None) -> None:
    """Write a private key into a new file.

    Args:
        file: It must not be there.
        key: The key.
        passphrase: What opens it; None: the file is not sealed.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    write_private(file, unsealed(key) if passphrase is None else seal(key, passphrase))


def unsealed(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as PKCS#8 in PEM."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def seal(key: Ed25519PrivateKey, passphrase: str, cost: Cost | None = None) -> bytes:
    """Return a private key sealed by a passphrase, as the content of a file."""
    cost = cost or Cost()
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    public_der = key.public_key().public_bytes(_DER, _SPKI)
    cipher = AESGCM(cost.derive(salt, passphrase))
    fields = {
        "format": FORMAT,
        "public_key_der": base64.b64encode(public_der).decode(),
        "argon2id": {**vars(cost), "salt": salt.hex()},
        "nonce": nonce.hex(),
        "sealed_key": base64.b64encode(
            cipher.encrypt(nonce, key.private_bytes_raw(), _associated(public_der, cost))
        ).decode(),
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def load_signer(file: Path, ask: AskPassphrase) -> Ed25519Signer:
    """Return who signs with the private key in a file.

    Args:
        file: A sealed key, or PKCS#8 in PEM.
        ask: Called for the passphrase, if the file is sealed.

    Raises:
        KeyFileError: it holds no Ed25519 private key, or the passphrase does not open it.
    """
    content = _read(file)
    if content.lstrip().startswith(b"{"):
        return Ed25519Signer(_open(file, _Sealed.of(file, content), ask()))
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{file} holds no private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{file} holds a key that is not Ed25519")
    return Ed25519Signer(key)


def load_public_key(file: Path) -> bytes:
    """Return the public key (SubjectPublicKeyInfo, DER) in a PEM file, or beside a sealed private key.

    Raises:
        KeyFileError: it holds neither.
    """
    content = _read(file)
    if content.lstrip().startswith(b"{"):
        return _Sealed.of(file, content).public_key_der
    if b"PRIVATE KEY" in content:
        return load_signer(file, _never_sealed).public_key_der
    (key,) = load_public_keys(file, most=1)
    return key


def load_public_keys(file: Path, most: int = 64) -> tuple[bytes, ...]:
    """Return the public keys (SubjectPublicKeyInfo, DER) in a PEM file, one after the other.

    Raises:
        KeyFileError: it holds none, more than ``most``, or others than Ed25519.
    """
    end = b"-----END PUBLIC KEY-----"
    blocks = _read(file).split(end)[:-1]
    if not 1 <= len(blocks) <= most:
        raise KeyFileError(f"{file} holds no public key in PEM" if not blocks else f"{file} holds more than {most}")
    return tuple(_public_key(file, block.strip() + b"\n" + end) for block in blocks)


def public_pem(public_key_der: bytes) -> bytes:
    """Return a public key in PEM."""
    return serialization.load_der_public_key(public_key_der).public_bytes(_PEM, _SPKI)


def _public_key(file: Path, pem: bytes) -> bytes:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{file} holds no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{file} holds a key that is not Ed25519")
    return key.public_bytes(_DER, _SPKI)


@dataclass(frozen=True)
class _Sealed:
    """The fields of a sealed key."""

    public_key_der: bytes
    cost: Cost
    salt: bytes
    nonce: bytes
    sealed_key: bytes

    @classmethod
    def of(cls, file: Path, content: bytes) -> _Sealed:
        try:
            fields: dict[str, Any] = json.loads(content)
            argon2id = fields["argon2id"]
            sealed = cls(
                base64.b64decode(fields["public_key_der"], validate=True),
                Cost(int(argon2id["memory"]), int(argon2id["iterations"]), int(argon2id["lanes"])),
                bytes.fromhex(argon2id["salt"]),
                bytes.fromhex(fields["nonce"]),
                base64.b64decode(fields["sealed_key"], validate=True),
            )
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise KeyFileError(f"{file} is no sealed key: it was changed, or is something else") from error
        if fields["format"] != FORMAT or not sealed.cost.is_bearable() or len(sealed.nonce) != _NONCE_BYTES:
            raise KeyFileError(f"{file} is no sealed key that this version reads")
        return sealed


def _open(file: Path, sealed: _Sealed, passphrase: str) -> Ed25519PrivateKey:
    cipher = AESGCM(sealed.cost.derive(sealed.salt, passphrase))
    try:
        raw = cipher.decrypt(sealed.nonce, sealed.sealed_key, _associated(sealed.public_key_der, sealed.cost))
        key = Ed25519PrivateKey.from_private_bytes(raw)
    except (InvalidTag, ValueError) as error:
        raise KeyFileError(f"the passphrase does not open {file}, or the file was changed") from error
    return key


def _associated(public_key_der: bytes, cost: Cost) -> bytes:
    return pae(_LABEL, public_key_der, *(str(value).encode() for value in vars(cost).values()))


def _never_sealed() -> str:
    raise AssertionError


def _read(file: Path) -> bytes:
    try:
        return read_small(file, _LARGEST_FILE)
    except OSError as error:
        raise KeyFileError(f"cannot read {file}: {error.strerror}") from error
