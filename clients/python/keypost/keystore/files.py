"""Files that arrive in parts: the rows behind ``FilePart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keystore.errors import KeyStoreConflictError, KeyStoreFullError
from keypost.keystore.values import StoredFile
from keypost.protocol.identifiers import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost.keystore.database import Database, Row
    from keypost.keystore.sealing import Place

LONGEST_NAME = 1024
"""Bytes in UTF-8."""
PART_COST = 256
"""Bytes that a row takes beside its data, so that parts of one byte are not free."""
COST = f"{2 * LONGEST_NAME} + received_size + {PART_COST} * received"
INCOMPLETE = "FROM files WHERE received < count"
USER = "substr(sender, 1, instr(sender, '/'))"
COLUMNS = "id, sender, file_id, count, size, received, description"


class SqliteFiles:
    """``FilePart`` in SQLite."""

    def __init__(self, database: Database, incomplete_file_size: int) -> None:
        self._database = database
        self._incomplete_file_size = incomplete_file_size

    def add_part(self, file: StoredFile, index: int, data: bytes, now: int) -> StoredFile:
        """Keep one part, and return the file as it now is."""
        _check_part(file, index, data)
        with self._database.transaction():
            row, held = self._begin(file, now)
            place = _part_place(file.sender, file.file_id, index)
            part = self._database.one("SELECT data FROM file_parts WHERE file = ? AND position = ?", row, index)
            if part is not None:
                _check_same(self._database.open(place, part[0]), data)
                return held
            self._make_room(row, len(data) + PART_COST)
            self._write_part(row, index, data, place, now)
            return replace(held, received=held.received + 1)

    def _begin(self, file: StoredFile, now: int) -> tuple[int, StoredFile]:
        held = self._find(file.sender, file.file_id)
        if held is not None:
            _check_same_file(held[1], file)
            return held
        self._check_size(file)
        bound = (str(file.sender), file.file_id, file.count, file.size)
        cursor = self._database.run(
            "INSERT INTO files (sender, file_id, count, size, update_time, description) VALUES (?, ?, ?, ?, ?, ?)",
            *bound,
            now,
            self._database.seal(("files", "description", *bound), _description(file)),
        )
        return cursor.lastrowid or 0, replace(file, received=0)

    def _check_size(self, file: StoredFile) -> None:
        if file.size > self._incomplete_file_size:
            raise KeyStoreFullError("the file is larger than incomplete files may be", list="files")

    def _make_room(self, row: int, size: int) -> None:
        # By what came, not by what was announced: to announce costs a peer nothing.
        while self._database.number(f"SELECT sum({COST}) {INCOMPLETE}") + size > self._incomplete_file_size:
            stalest = self._stalest_of_greediest()
            if stalest in (0, row):
                raise KeyStoreFullError("this file and others of its sender take too much already", list="files")
            self._database.run("DELETE FROM files WHERE id = ?", stalest)
            self._database.run(
                "INSERT INTO dropped VALUES ('files', 1) ON CONFLICT (list) DO UPDATE SET count = count + 1"
            )

    def _stalest_of_greediest(self) -> int:
        greediest = f"SELECT {USER} {INCOMPLETE} GROUP BY {USER} ORDER BY sum({COST}) DESC, min(id) LIMIT 1"
        return self._database.number(
            f"SELECT id {INCOMPLETE} AND {USER} = ({greediest}) ORDER BY update_time, id LIMIT 1"
        )

    def dropped(self) -> int:
        """Return how many incomplete files were ever dropped to make room."""
        return self._database.number("SELECT count FROM dropped WHERE list = 'files'")

    def _write_part(self, row: int, index: int, data: bytes, place: Place, now: int) -> None:
        self._database.run(
            "UPDATE files SET received = received + 1, received_size = received_size + ?, update_time = ? WHERE id = ?",
            len(data),
            now,
            row,
        )
        if self._database.number("SELECT received_size > size FROM files WHERE id = ?", row):
            raise KeyStoreConflictError("the parts are more than the file they announce")
        sealed = self._database.seal(place, data)
        self._database.run("INSERT INTO file_parts VALUES (?, ?, ?)", row, index, sealed)

    def find(self, sender: Address, file_id: bytes) -> StoredFile | None:
        """Return what is known of a file."""
        held = self._find(sender, file_id)
        return None if held is None else held[1]

    def _find(self, sender: Address, file_id: bytes) -> tuple[int, StoredFile] | None:
        row = self._database.one(f"SELECT {COLUMNS} FROM files WHERE sender = ? AND file_id = ?", str(sender), file_id)
        return None if row is None else (row[0], self._read(row))

    def _read(self, row: Row) -> StoredFile:
        _, sender, file_id, count, size, received, sealed = row
        opened = self._database.open(("files", "description", sender, file_id, count, size), sealed)
        part = pb.FilePart.FromString(opened)
        return StoredFile(
            Address.parse(sender), file_id, part.name, part.media_type, count, size, part.sha256, received
        )

    def read(self, sender: Address, file_id: bytes) -> Iterator[bytes]:
        """Yield the parts of a file in order, one in memory at a time."""
        held = self._find(sender, file_id)
        if held is None:
            return
        row, file = held
        for index in range(file.count):
            part = self._database.one("SELECT data FROM file_parts WHERE file = ? AND position = ?", row, index)
            if part is None:
                return
            yield self._database.open(_part_place(sender, file_id, index), part[0])

    def remove(self, sender: Address, file_id: bytes) -> None:
        """Erase a file and its parts."""
        self._database.run("DELETE FROM files WHERE sender = ? AND file_id = ?", str(sender), file_id)


def _check_part(file: StoredFile, index: int, data: bytes) -> None:
    if max(len(file.name.encode()), len(file.media_type.encode())) > LONGEST_NAME:
        raise KeyStoreConflictError("the name of the file or of its media type is too long")
    # Empty parts would let a sender announce any number of them for nothing.
    if not 1 <= file.count <= max(1, file.size) or (file.size and not data):
        raise KeyStoreConflictError("no file of this size has so many parts, or an empty one")
    if not 0 <= index < file.count:
        raise KeyStoreConflictError("the file has no part of this index")


def _check_same_file(held: StoredFile, file: StoredFile) -> None:
    if replace(held, received=0) != replace(file, received=0):
        raise KeyStoreConflictError("this part describes the file otherwise than the parts before")


def _check_same(held: bytes, data: bytes) -> None:
    if not hmac.compare_digest(held, data):
        raise KeyStoreConflictError("this part came before with other bytes")


def _description(file: StoredFile) -> bytes:
    part = pb.FilePart(name=file.name, media_type=file.media_type, sha256=file.sha256)
    return part.SerializeToString()


def _part_place(sender: Address, file_id: bytes, index: int) -> Place:
    return ("file_parts", "data", str(sender), file_id, index)
