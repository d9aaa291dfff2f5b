"""What is known of users: the rows behind ``RecordPart``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreConflictError
from keypost.keystore.values import Evidence, StoredRecord
from keypost.protocol.encoding import pae, sha256

if TYPE_CHECKING:
    from collections.abc import Collection

    from keypost.keystore.database import Database


class SqliteRecords:
    """``RecordPart`` in SQLite."""

    def __init__(self, database: Database, evidence_count: int) -> None:
        self._database = database
        self._evidence_count = evidence_count

    def find(self, username: str) -> StoredRecord | None:
        """Return the newest verified key info of a user."""
        row = self._database.one(
            "SELECT epoch, revision, this_update, key_info FROM records WHERE username = ?", username
        )
        if row is None:
            return None
        epoch, revision, this_update, sealed = row
        place = ("records", "key_info", username, epoch, revision, this_update)
        return StoredRecord(username, epoch, revision, this_update, self._database.open(place, sealed))

    def put(self, record: StoredRecord) -> None:
        """Keep a verified key info, unless a newer one of the same revision is held."""
        with self._database.transaction():
            held = self.find(record.username)
            if held is not None:
                _check_not_back(held, record)
                if record.revision == held.revision and record.this_update < held.this_update:
                    return
            self._write(record)

    def _write(self, record: StoredRecord) -> None:
        row = (record.username, record.epoch, record.revision, record.this_update)
        sealed = self._database.seal(("records", "key_info", *row), record.key_info)
        self._database.run("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", *row, sealed)

    def usernames(self) -> tuple[str, ...]:
        """Return all users of whom a record is held."""
        return tuple(row[0] for row in self._database.all("SELECT username FROM records ORDER BY username"))

    def forget(self, username: str) -> None:
        """Forget the record and the pins of a user."""
        with self._database.transaction():
            self._database.run("DELETE FROM records WHERE username = ?", username)
            self._database.run("DELETE FROM pins WHERE username = ?", username)

    def pins(self, username: str) -> bytes | None:
        """Return the pins of a user."""
        row = self._database.one("SELECT pins FROM pins WHERE username = ?", username)
        return None if row is None else self._database.open(("pins", "pins", username), row[0])

    def set_pins(self, username: str, pins: bytes | None) -> None:
        """Replace the pins of a user, or remove them."""
        if pins is None:
            self._database.run("DELETE FROM pins WHERE username = ?", username)
            return
        sealed = self._database.seal(("pins", "pins", username), pins)
        self._database.run("INSERT OR REPLACE INTO pins VALUES (?, ?)", username, sealed)

    def add_evidence(self, evidence: Evidence) -> None:
        """Keep evidence, once, and a bounded number for a user and reason."""
        name, reason = evidence.username, evidence.reason
        digest = sha256(pae(name.encode(), reason.encode(), evidence.previous, evidence.current))
        with self._database.transaction():
            held = self._database.number(
                "SELECT count(*) FROM evidence WHERE username = ? AND reason = ?", name, reason
            )
            if held >= self._evidence_count:
                return
            row = (name, reason, evidence.time, digest)
            self._database.run(
                "INSERT INTO evidence (username, reason, time, digest, previous, current)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                *row,
                self._database.seal(("evidence", "previous", *row), evidence.previous),
                self._database.seal(("evidence", "current", *row), evidence.current),
            )

    def evidence(self, username: str) -> tuple[Evidence, ...]:
        """Return the evidence about a user, oldest first."""
        rows = self._database.all(
            "SELECT username, reason, time, digest, previous, current FROM evidence WHERE username = ? ORDER BY id",
            username,
        )
        return tuple(
            Evidence(
                username=row[0],
                reason=row[1],
                previous=self._database.open(("evidence", "previous", *row[:4]), row[4]),
                current=self._database.open(("evidence", "current", *row[:4]), row[5]),
                time=row[2],
            )
            for row in rows
        )

    def close_keys(self, fingerprints: Collection[bytes], time: int, mark: int) -> None:
        """Note that nothing that these keys signed, or that is sealed to them, is opened if it comes from now on."""
        with self._database.transaction():
            for fingerprint in fingerprints:
                self._database.run(
                    "INSERT INTO closed_keys VALUES (?, ?, ?) ON CONFLICT DO NOTHING", fingerprint, time, mark
                )

    def closing_mark(self, fingerprint: bytes) -> int | None:
        """Return the mark with which a key was closed."""
        row = self._database.one("SELECT mark FROM closed_keys WHERE fingerprint = ?", fingerprint)
        return None if row is None else int(row[0])


def _check_not_back(held: StoredRecord, record: StoredRecord) -> None:
    if record.epoch < held.epoch or record.revision < held.revision:
        raise KeyStoreConflictError("a later record of this user is held", username=record.username)
