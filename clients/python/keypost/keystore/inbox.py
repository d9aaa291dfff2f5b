"""Opened messages for the application: the rows behind ``InboxPart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keypost.keystore.database import conversation_from, conversation_text
from keypost.keystore.errors import KeyStoreConflictError
from keypost.keystore.values import InboxMessage, InboxState
from keypost.protocol.identifiers import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.keystore.database import Database, Row
    from keypost.keystore.sealing import Place

BOUND = "sender, message_id, conversation, key_id, counter, send_time, accept_time, missed, verified"
COLUMNS = f"sequence, state, attempts, content, {BOUND}"
PAGE = 64


class SqliteInbox:
    """``InboxPart`` in SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, message: InboxMessage) -> int:
        """Keep a message, and return its sequence."""
        bound = (
            str(message.sender),
            message.message_id,
            conversation_text(message.conversation),
            message.key_id,
            message.counter,
            message.send_time,
            message.accept_time,
            message.missed,
            int(message.verified),
        )
        sealed = self._database.seal(_place(bound), message.content)
        cursor = self._database.run(
            f"INSERT INTO inbox ({BOUND}, state, size, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            *bound,
            InboxState.NEW.value,
            len(message.content),
            sealed,
        )
        if not cursor.rowcount or cursor.lastrowid is None:
            raise KeyStoreConflictError("this message is in the inbox already")
        return cursor.lastrowid

    def next_unhandled(self, after: int = 0) -> InboxMessage | None:
        """Hand out the oldest message that is not handled."""
        with self._database.transaction():
            row = self._database.one(
                f"SELECT {COLUMNS} FROM inbox WHERE state <> 'handled' AND set_aside = 0 AND sequence > ?"
                " ORDER BY sequence LIMIT 1",
                after,
            )
            if row is None:
                return None
            message = self._read(row)
            self._database.run(
                "UPDATE inbox SET state = 'handed_out', attempts = attempts + 1 WHERE sequence = ?", message.sequence
            )
        return replace(message, attempts=message.attempts + 1)

    def set_handled(self, sequence: int) -> None:
        """Note that the application is done with a message."""
        self._database.run("UPDATE inbox SET state = 'handled', set_aside = 0 WHERE sequence = ?", sequence)

    def set_aside(self, sequence: int) -> None:
        """Hand a message out no more, until it is brought back."""
        self._database.run("UPDATE inbox SET set_aside = 1 WHERE sequence = ?", sequence)

    def page_set_aside(self, after: int = 0, *, limit: int = PAGE) -> tuple[InboxMessage, ...]:
        """Return the next messages that are handed out no more, in the order in which they were kept."""
        rows = self._database.all(
            f"SELECT {COLUMNS} FROM inbox WHERE set_aside = 1 AND sequence > ? ORDER BY sequence LIMIT ?", after, limit
        )
        return tuple(self._read(row) for row in rows)

    def bring_back(self) -> int:
        """Hand out again whatever was set aside, and return how many messages these are."""
        return self._database.run("UPDATE inbox SET set_aside = 0, attempts = 0 WHERE set_aside = 1").rowcount

    def find(self, sender: Address, message_id: bytes) -> InboxMessage | None:
        """Return a message without handing it out."""
        row = self._database.one(
            f"SELECT {COLUMNS} FROM inbox WHERE sender = ? AND message_id = ?", str(sender), message_id
        )
        return None if row is None else self._read(row)

    def forget(self, sequence: int) -> None:
        """Erase a handled message at once."""
        self._database.run("DELETE FROM inbox WHERE sequence = ? AND state = 'handled'", sequence)

    def _read(self, row: Row) -> InboxMessage:
        sequence, state, attempts, content, *bound = row
        opened = self._database.open(_place(bound), content)
        sender, message_id, conversation, key_id, counter, send_time, accept_time, missed, verified = bound
        return InboxMessage(
            message_id=message_id,
            sender=Address.parse(sender),
            conversation=conversation_from(conversation),
            key_id=key_id,
            counter=counter,
            send_time=send_time,
            accept_time=accept_time,
            missed=missed,
            content=opened,
            sequence=sequence,
            attempts=attempts,
            redelivered=state != InboxState.NEW,
            verified=bool(verified),
        )


def _place(bound: Sequence[Any]) -> Place:
    """Return what a message is sealed to; rows of before there was a mark are not verified, and not bound to it."""
    *earlier, verified = bound
    return ("inbox", "content", *earlier, *([verified] if verified else []))
