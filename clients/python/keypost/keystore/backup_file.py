"""The file of a backup: a header that anybody can read, then chunks that nobody can change (docs/spec.md, "Backups").

The content is sealed chunk by chunk under a key of its own, each bound to the header and to its place: whatever is
altered, cut, swapped or taken from another backup does not open. One chunk is in memory at a time.
"""

from __future__ import annotations

import json
import secrets
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Self

from cryptography.exceptions import InvalidTag

from keypost.keystore.errors import (
    BackupDamagedError,
    BackupFormatError,
    KeyStoreTamperedError,
    NotABackupError,
    WrongPassphraseError,
)
from keypost.keystore.sealing import NONCE_BYTES, TAG_BYTES, wipe, xaes_decrypt, xaes_decrypt_key, xaes_encrypt
from keypost.keystore.unlock import KEY_BYTES, Passphrase
from keypost.protocol.encoding import pae, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"keypost backup\n"
VERSION = 1
CHUNK = 1024 * 1024
OVERHEAD = NONCE_BYTES + TAG_BYTES
MOST_HEADER_BYTES = 4096
DIGEST_BYTES = 32
ID_BYTES = 16
KEY_LABEL = b"keypost/v1/backup/key"
STORE_KEY_LABEL = b"keypost/v1/backup/store-key"
CHUNK_LABEL = b"keypost/v1/backup/chunk"
_FRONT = struct.Struct(f">{len(MAGIC)}sII")


@dataclass(frozen=True)
class BackupKey:
    """What seals the backups of one target: a random key, and the same sealed under the passphrase.

    Attributes:
        key: 32 bytes.
        parameters: What deriving from the passphrase needs (``Passphrase.prepare``).
        sealed_key: The key sealed under what the passphrase yields; the same in every backup of the target.
    """

    key: bytes | bytearray = field(repr=False)
    parameters: str
    sealed_key: bytes

    @classmethod
    def new(cls, passphrase: Passphrase) -> Self:
        """Return a key that this passphrase opens. Slow on purpose.

        Raises:
            InvalidArgumentError: The passphrase is empty.
        """
        parameters, key = passphrase.prepare(), secrets.token_bytes(KEY_BYTES)
        derived, nonce = passphrase.derive(parameters), secrets.token_bytes(NONCE_BYTES)
        try:
            return cls(key, parameters, nonce + xaes_encrypt(derived, nonce, key, _key_aad(parameters)))
        finally:
            wipe(derived)

    @classmethod
    def opened(cls, header: Header, passphrase: Passphrase) -> Self:
        """Return the key of a backup. Slow on purpose.

        Raises:
            WrongPassphraseError: The passphrase is another one.
            BackupDamagedError: What deriving needs was changed.
        """
        try:
            derived = passphrase.derive(header.parameters)
        except KeyStoreTamperedError as error:
            raise _damaged("its passphrase parameters were changed") from error
        nonce, ciphertext = header.sealed_key[:NONCE_BYTES], header.sealed_key[NONCE_BYTES:]
        try:
            key = xaes_decrypt_key(derived, nonce, ciphertext, _key_aad(header.parameters))
        except (InvalidTag, ValueError) as error:
            raise WrongPassphraseError("the passphrase is wrong for this backup") from error
        finally:
            wipe(derived)
        return cls(key, header.parameters, header.sealed_key)

    def seal_store_key(self, store_key: bytes | bytearray, backup_id: bytes) -> bytes:
        """Return the data key of a store, sealed for one backup."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + xaes_encrypt(self.key, nonce, store_key, pae(STORE_KEY_LABEL, backup_id))

    def open_store_key(self, header: Header) -> bytearray:
        """Return the data key of the store in a backup.

        Raises:
            BackupDamagedError: It was changed, or comes from another backup.
        """
        nonce, ciphertext = header.sealed_store_key[:NONCE_BYTES], header.sealed_store_key[NONCE_BYTES:]
        try:
            return xaes_decrypt_key(self.key, nonce, ciphertext, pae(STORE_KEY_LABEL, header.backup_id))
        except (InvalidTag, ValueError) as error:
            raise _damaged("its header was changed") from error


@dataclass(frozen=True)
class Header:
    """What stands before the chunks, in the clear; each chunk is bound to all of it.

    Attributes:
        backup_id: 16 random bytes, another for each file.
        create_time: When the backup was made, Unix milliseconds.
        size: Bytes of the content.
        parameters: As in ``BackupKey``.
        sealed_key: As in ``BackupKey``.
        sealed_store_key: The data key of the store, sealed under that key.
    """

    backup_id: bytes
    create_time: int
    size: int
    parameters: str
    sealed_key: bytes
    sealed_store_key: bytes

    def to_bytes(self) -> bytes:
        """Return the header as it stands in the file, with its digest."""
        values = {
            "backup_id": self.backup_id.hex(),
            "create_time": self.create_time,
            "size": self.size,
            "parameters": self.parameters,
            "sealed_key": self.sealed_key.hex(),
            "sealed_store_key": self.sealed_store_key.hex(),
        }
        text = json.dumps(values).encode()
        front = _FRONT.pack(MAGIC, VERSION, len(text)) + text
        return front + sha256(front)

    @property
    def sealed_size(self) -> int:
        """Bytes of all chunks, sealed."""
        return self.size + OVERHEAD * -(-self.size // CHUNK)


def new_header(key: BackupKey, store_key: bytes | bytearray, size: int, now: int) -> Header:
    """Return the header of a new backup.

    Args:
        key: What seals it.
        store_key: The data key of the store, 32 bytes.
        size: Bytes of the content.
        now: Unix milliseconds.
    """
    backup_id = secrets.token_bytes(ID_BYTES)
    sealed_store_key = key.seal_store_key(store_key, backup_id)
    return Header(backup_id, now, size, key.parameters, key.sealed_key, sealed_store_key)


def write_header(stream: BinaryIO, header: Header) -> bytes:
    """Write the header of a new backup and return its digest, to which the chunks are bound."""
    serialised = header.to_bytes()
    stream.write(serialised)
    return serialised[-DIGEST_BYTES:]


def read_header(stream: BinaryIO) -> tuple[Header, bytes]:
    """Return the header of a backup and its digest.

    Raises:
        NotABackupError: It is something else, or empty.
        BackupFormatError: A newer version made it.
        BackupDamagedError: It is cut or was changed.
    """
    front = stream.read(_FRONT.size)
    if not front:
        raise NotABackupError("the file is empty: its making was cut short; take another backup")
    if not front.startswith(MAGIC[: len(front)]):
        raise NotABackupError("the file is no backup of Keypost; name another one")
    if len(front) < _FRONT.size:
        raise _damaged("it ends within its header")
    _, version, length = _FRONT.unpack(front)
    if version > VERSION:
        raise BackupFormatError(
            f"a newer Keypost made this backup (format {version}, this one reads {VERSION}); install that version",
            format=str(version),
        )
    return _read_checked(stream, front, length)


def _read_checked(stream: BinaryIO, front: bytes, length: int) -> tuple[Header, bytes]:
    text = stream.read(min(length, MOST_HEADER_BYTES))
    digest = stream.read(DIGEST_BYTES)
    if len(digest) < DIGEST_BYTES:
        raise _damaged("it ends within its header")
    if digest != sha256(front + text):
        raise _damaged("its header was changed")
    return _parsed(text), digest


def _parsed(text: bytes) -> Header:
    try:
        values = json.loads(text)
        header = Header(
            backup_id=bytes.fromhex(values["backup_id"]),
            create_time=int(values["create_time"]),
            size=int(values["size"]),
            parameters=str(values["parameters"]),
            sealed_key=bytes.fromhex(values["sealed_key"]),
            sealed_store_key=bytes.fromhex(values["sealed_store_key"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged("its header was changed") from error
    if header.size < 0:
        raise _damaged("its header was changed")
    return header


def check_length(header: Header, found: int) -> None:
    """Check that as many bytes follow the header as it says.

    Raises:
        BackupDamagedError: The file is cut, or something was added.
    """
    if found < header.sealed_size:
        raise _damaged(f"it is cut: {header.sealed_size - found} bytes are missing at its end")
    if found > header.sealed_size:
        raise _damaged(f"{found - header.sealed_size} bytes follow its end")


def seal_chunks(content: BinaryIO, key: bytes | bytearray, digest: bytes) -> Iterator[bytes]:
    """Yield the content in sealed chunks."""
    index = 0
    while chunk := content.read(CHUNK):
        nonce = secrets.token_bytes(NONCE_BYTES)
        yield nonce + xaes_encrypt(key, nonce, chunk, _chunk_aad(digest, index))
        index += 1


def open_chunks(stream: BinaryIO, key: bytes | bytearray, digest: bytes) -> Iterator[bytes]:
    """Yield the content, chunk by chunk.

    Raises:
        BackupDamagedError: A chunk was changed, moved, or comes from another backup.
    """
    index = 0
    while sealed := stream.read(CHUNK + OVERHEAD):
        try:
            yield xaes_decrypt(key, sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _chunk_aad(digest, index))
        except (InvalidTag, ValueError) as error:
            raise _damaged(f"something in its part {index + 1} was changed", part=str(index + 1)) from error
        index += 1


def _damaged(how: str, **metadata: str) -> BackupDamagedError:
    return BackupDamagedError(f"the backup is damaged: {how}; take another one", **metadata)


def _key_aad(parameters: str) -> bytes:
    return pae(KEY_LABEL, parameters.encode())


def _chunk_aad(digest: bytes, index: int) -> bytes:
    return pae(CHUNK_LABEL, digest, index.to_bytes(8, "big"))
