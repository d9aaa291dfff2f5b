"""How often it was begun to take an envelope in: the rows behind ``AttemptPart``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keypost.keystore.database import Database


class SqliteAttempts:
    """``AttemptPart`` in SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, digest: bytes, now: int) -> int:
        """Count one more attempt, and return how many there are."""
        with self._database.transaction():
            self._database.run(
                "INSERT INTO attempts VALUES (?, 1, ?) ON CONFLICT (digest) DO UPDATE SET count = count + 1, time = ?",
                digest,
                now,
                now,
            )
            return self._database.number("SELECT count FROM attempts WHERE digest = ?", digest)

    def take_back(self, digest: bytes) -> None:
        """Count one attempt less."""
        self._database.run("UPDATE attempts SET count = count - 1 WHERE digest = ?", digest)

    def end(self, digest: bytes) -> None:
        """Forget the attempts."""
        self._database.run("DELETE FROM attempts WHERE digest = ?", digest)
