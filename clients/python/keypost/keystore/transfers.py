"""Files on their way out: the rows behind ``TransferPart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreConflictError, KeyStoreFullError
from keypost.keystore.values import Transfer

if TYPE_CHECKING:
    from keypost.keystore.database import Database, Row
    from keypost.keystore.sealing import Place

BOUND = "file_id, recipient, count, size, create_time"
COLUMNS = f"{BOUND}, next, description"


class SqliteTransfers:
    """``TransferPart`` in SQLite."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit

    def add(self, transfer: Transfer) -> None:
        """Keep a transfer that begins."""
        with self._database.transaction():
            if self.find(transfer.file_id) is not None:
                raise KeyStoreConflictError("a file with this id is on its way")
            if self._database.number("SELECT count(*) FROM transfers") >= self._limit:
                raise KeyStoreFullError("too many files are on their way; resume or cancel some", list="transfers")
            bound = _bound(transfer)
            self._database.run(
                f"INSERT INTO transfers ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                *bound,
                transfer.next,
                self._database.seal(_place(bound), _description(transfer)),
            )

    def find(self, file_id: bytes) -> Transfer | None:
        """Return a transfer."""
        row = self._database.one(f"SELECT {COLUMNS} FROM transfers WHERE file_id = ?", file_id)
        return None if row is None else self._read(row)

    def all(self) -> tuple[Transfer, ...]:
        """Return all transfers, the oldest first."""
        rows = self._database.all(f"SELECT {COLUMNS} FROM transfers ORDER BY create_time, file_id")
        return tuple(self._read(row) for row in rows)

    def begin_part(self, file_id: bytes, index: int) -> bool:
        """Note that a part is begun; return whether there is such a transfer."""
        # One that has to be begun again stays the next one, whatever is begun after it.
        statement = "UPDATE transfers SET next = CASE WHEN next = ? THEN next + 1 ELSE next END WHERE file_id = ?"
        return bool(self._database.run(statement, index, file_id).rowcount)

    def take_back_part(self, file_id: bytes, index: int) -> None:
        """Note that a part, and with it all that follow, has to be begun again."""
        self._database.run("UPDATE transfers SET next = min(next, ?) WHERE file_id = ?", index, file_id)

    def note_time(self, file_id: bytes, modify_time_ns: int) -> None:
        """Note another time of modification of a file whose bytes are the same."""
        with self._database.transaction():
            if (held := self.find(file_id)) is not None:
                self.remove(file_id)
                self.add(held.touched(modify_time_ns))

    def remove(self, file_id: bytes) -> None:
        """Forget a transfer."""
        self._database.run("DELETE FROM transfers WHERE file_id = ?", file_id)

    def _read(self, row: Row) -> Transfer:
        *bound, following, sealed = row
        file_id, recipient, count, size, create_time = bound
        described = json.loads(self._database.open(_place(tuple(bound)), sealed))
        return Transfer(
            file_id=file_id,
            recipient=recipient,
            path=described["path"],
            modify_time_ns=described["modify_time_ns"],
            name=described["name"],
            media_type=described["media_type"],
            count=count,
            size=size,
            sha256=bytes.fromhex(described["sha256"]),
            create_time=create_time,
            next=following,
        )


def _bound(transfer: Transfer) -> tuple[bytes | str | int, ...]:
    return transfer.file_id, transfer.recipient, transfer.count, transfer.size, transfer.create_time


def _place(bound: tuple[bytes | str | int, ...]) -> Place:
    return ("transfers", "description", *bound)


def _description(transfer: Transfer) -> bytes:
    described = {
        "path": transfer.path,
        "modify_time_ns": transfer.modify_time_ns,
        "name": transfer.name,
        "media_type": transfer.media_type,
        "sha256": transfer.sha256.hex(),
    }
    return json.dumps(described).encode()
