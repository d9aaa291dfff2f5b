"""Files as they are on the disk, and the parts that they go out in."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError
from keypost.keystore.values import Transfer

if TYPE_CHECKING:
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import OutgoingMessage

PART_BYTES = 192 * 1024
LONGEST_NAME = 255


class FileChangedError(InvalidArgumentError):
    """A file is another than when its transfer began: what went out of it is of no use."""

    reason = "FILE_CHANGED"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was sent: what went out is of no use, send it again", field="path")


class FileCancelledError(InvalidArgumentError):
    """The transfer of a file was given up while it was sent."""

    reason = "FILE_CANCELLED"


@dataclass(frozen=True)
class Described:
    """A file as it is now.

    Attributes:
        path: Where it is, absolute.
        modify_time_ns: When it was modified last.
        size: Its bytes.
        sha256: Of the whole.
    """

    path: str
    modify_time_ns: int
    size: int
    sha256: bytes

    @property
    def name(self) -> str:
        """The name that goes along."""
        return Path(self.path).name[:LONGEST_NAME]

    def is_same(self, transfer: Transfer) -> bool:
        """Return whether a file is, byte for byte, still the one whose transfer began."""
        return (self.size, self.sha256) == (transfer.size, transfer.sha256)


def describe(path: Path) -> Described:
    """Read a file once. Blocks.

    Raises:
        InvalidArgumentError: It cannot be read, or its name is no text.
        FileChangedError: It changes just now.
    """
    if not _is_text(path.name):
        raise InvalidArgumentError(f"the name of {path!r} is no text: rename it", field="path")
    try:
        # To open a pipe would wait until somebody writes to it.
        if path.exists() and not path.is_file():
            raise InvalidArgumentError(f"{path} is no file", field="path")
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256")
            after = os.fstat(file.fileno())
            if (file.tell(), before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise FileChangedError(str(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    # Not resolved: a link may lead elsewhere later, and the hash tells.
    return Described(os.path.abspath(path), after.st_mtime_ns, after.st_size, digest.digest())  # noqa: PTH100


def begin(described: Described, file_id: bytes, recipient: str, media_type: str, now: int) -> Transfer:
    """Return the transfer of a file, of which no part is begun."""
    return Transfer(
        file_id=file_id,
        recipient=recipient,
        path=described.path,
        modify_time_ns=described.modify_time_ns,
        name=described.name,
        media_type=media_type,
        count=max(1, -(-described.size // PART_BYTES)),
        size=described.size,
        sha256=described.sha256,
        create_time=now,
    )


def size_up_to(transfer: Transfer, index: int) -> int:
    """Return the bytes of the parts before one."""
    return min(index * PART_BYTES, transfer.size)


def read_part(transfer: Transfer, index: int) -> pb.Content:
    """Return a part of a file. Blocks.

    Raises:
        FileChangedError: It is not what it was.
        InvalidArgumentError: It cannot be read.
    """
    begin, end = size_up_to(transfer, index), size_up_to(transfer, index + 1)
    path = Path(transfer.path)
    try:
        with path.open("rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            file.seek(begin)
            data = _read_whole(file.fileno(), end - begin)
    except OSError as error:
        raise _unreadable(path, error) from error
    if (now.st_size, now.st_mtime_ns, len(data)) != (transfer.size, transfer.modify_time_ns, end - begin):
        raise FileChangedError(transfer.path)
    return pb.Content(
        file_part=pb.FilePart(
            file_id=transfer.file_id,
            name=transfer.name,
            media_type=transfer.media_type,
            index=index,
            count=transfer.count,
            size=transfer.size,
            sha256=transfer.sha256,
            data=data,
        )
    )


def keep(store: KeyStore, message: OutgoingMessage, content: pb.Content) -> None:
    """Keep a message in the outbox; of a part of a file, a reference alone: its bytes are in the file.

    Call it within the transaction that begins the message.

    Raises:
        FileCancelledError: The transfer of the file was given up.
        KeypostError: As ``Outbox.add``.
    """
    if content.HasField("file_part"):
        part = content.file_part
        if not store.transfers.begin_part(part.file_id, part.index):
            raise FileCancelledError("the transfer of this file was cancelled", field="path")
        reference = pb.Content(file_part=pb.FilePart(file_id=part.file_id, index=part.index))
        message = replace(message, content=reference.SerializeToString())
    store.outbox.add(message)


def complete(store: KeyStore, message: OutgoingMessage) -> OutgoingMessage:
    """Return a message of the outbox with what it refers to.

    A part that is no longer to be had goes out as an empty message: its counter is taken, and would be missed.
    """
    content = pb.Content.FromString(message.content)
    if not is_reference(content):
        return message
    part, transfer = content.file_part, store.transfers.find(content.file_part.file_id)
    try:
        whole = None if transfer is None else read_part(transfer, part.index)
    except InvalidArgumentError:
        store.transfers.take_back_part(part.file_id, part.index)
        whole = None
    return replace(message, content=(whole or pb.Content(key_update=pb.KeyUpdate())).SerializeToString())


def is_reference(content: pb.Content) -> bool:
    """Return whether a content of the outbox refers to a part of a file."""
    return content.HasField("file_part") and not content.file_part.sha256


def _read_whole(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return bytes(data)


def _is_text(name: str) -> bool:
    """Return whether a name is Unicode: one in another encoding has surrogates where that is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path} cannot be read: {error.strerror}", field="path")
