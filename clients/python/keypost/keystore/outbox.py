"""Messages on their way out: the rows behind ``OutboxPart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreConflictError, KeyStoreFullError
from keypost.keystore.values import OutgoingMessage, Totals

if TYPE_CHECKING:
    from keypost.keystore.database import Database, Row

BOUND = "message_id, recipient, counter, create_time"
READ = f"{BOUND}, content, trace_context"


class SqliteOutbox:
    """``OutboxPart`` in SQLite."""

    def __init__(self, database: Database, limit: Totals) -> None:
        self._database = database
        self._limit = limit

    def add(self, message: OutgoingMessage) -> None:
        """Keep a message until it is stored by delivery."""
        with self._database.transaction():
            held = self.find(message.message_id)
            if held is not None and _is_same(held, message):
                return
            if held is not None:
                raise KeyStoreConflictError("another message with this id is on its way")
            self._check_room(len(message.content))
            bound = (message.message_id, message.recipient, message.counter, message.create_time)
            sealed = self._database.seal(("outbox", "content", *bound), message.content)
            self._database.run(
                f"INSERT INTO outbox ({BOUND}, size, content, trace_context) VALUES (?, ?, ?, ?, ?, ?, ?)",
                *bound,
                len(message.content),
                sealed,
                message.trace_context,
            )

    def _check_room(self, size: int) -> None:
        row = self._database.one("SELECT count(*), total(size) FROM outbox")
        count, total = row or (0, 0)
        if count >= self._limit.count or total + size > self._limit.size:
            raise KeyStoreFullError("too many messages are on their way; wait until some are stored", list="outbox")

    def find(self, message_id: bytes) -> OutgoingMessage | None:
        """Return a message on its way."""
        row = self._database.one(f"SELECT {READ} FROM outbox WHERE message_id = ?", message_id)
        return None if row is None else self._read(row)

    def page(self, *, after: bytes = b"", limit: int = 64) -> tuple[OutgoingMessage, ...]:
        """Return messages on their way, ordered by id."""
        rows = self._database.all(
            f"SELECT {READ} FROM outbox WHERE message_id > ? ORDER BY message_id LIMIT ?", after, limit
        )
        return tuple(self._read(row) for row in rows)

    def to(self, recipient: str, *, after: int = 0, limit: int = 64) -> tuple[OutgoingMessage, ...]:
        """Return messages on their way to one user, in the order in which they go out."""
        rows = self._database.all(
            f"SELECT {READ} FROM outbox WHERE recipient = ? AND counter > ? ORDER BY counter LIMIT ?",
            recipient,
            after,
            limit,
        )
        return tuple(self._read(row) for row in rows)

    def recipients(self) -> tuple[str, ...]:
        """Return the users to whom messages are on their way, sorted."""
        rows = self._database.all("SELECT DISTINCT recipient FROM outbox ORDER BY recipient")
        return tuple(row[0] for row in rows)

    def remove(self, message_id: bytes) -> None:
        """Forget a message."""
        self._database.run("DELETE FROM outbox WHERE message_id = ?", message_id)

    def _read(self, row: Row) -> OutgoingMessage:
        message_id, recipient, counter, create_time, sealed, trace_context = row
        place = ("outbox", "content", message_id, recipient, counter, create_time)
        content = self._database.open(place, sealed)
        return OutgoingMessage(message_id, recipient, counter, create_time, content, trace_context)


def _is_same(held: OutgoingMessage, message: OutgoingMessage) -> bool:
    same_content = hmac.compare_digest(held.content, message.content)
    return same_content and replace(held, content=b"") == replace(message, content=b"")
