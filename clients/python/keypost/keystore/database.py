"""One SQLite connection: transactions that nest, errors in Keypost's words, sealed values."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from keypost.errors import InvalidArgumentError
from keypost.keystore.errors import (
    KeyStoreConflictError,
    KeyStoreError,
    KeyStoreLockedError,
    KeyStoreTamperedError,
    KeyStoreUnavailableError,
    NotAKeyStoreError,
)
from keypost.protocol.identifiers import conversation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keypost.keystore.sealing import Place, Sealer
    from keypost.keystore.values import Conversation

Row = tuple[Any, ...]
PAGES_AT_ONCE = 256


class Database:
    """A connection (in autocommit mode) and, once unlocked, the sealer of its values."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        # A cell that was edited into text that is none must reach the sealer, which refuses it.
        connection.text_factory = _lenient_text
        self._connection = connection
        self._sealer: Sealer | None = None
        self._depth = 0
        self._scrub = False

    def unlock(self, sealer: Sealer) -> None:
        """Seal and open values with ``sealer`` from now on."""
        self._sealer = sealer

    @property
    def sealer(self) -> Sealer:
        """The sealer of this store's values."""
        if self._sealer is None:
            raise KeyStoreUnavailableError("the profile is closed; open it again")
        return self._sealer

    def seal(self, place: Place, value: bytes) -> bytes:
        """Return ``value`` sealed for its place."""
        return self.sealer.seal(place, value)

    def open(self, place: Place, sealed: bytes) -> bytes:
        """Return the value that was sealed for this place.

        Raises:
            KeyStoreTamperedError: It was not.
        """
        return self.sealer.open(place, sealed)

    def run(self, statement: str, *parameters: object) -> sqlite3.Cursor:
        """Execute one statement.

        Raises:
            KeyStoreError: It failed; the kind says why.
            InvalidArgumentError: A number is beyond 63 bits.
        """
        with _explained():
            if self._depth and not self._connection.in_transaction:
                # SQLite gives a transaction up by itself when the disk is full; what follows must not be kept alone.
                raise KeyStoreUnavailableError("the transaction was given up by an earlier failure; begin it again")
            return self._connection.execute(statement, parameters)

    def one(self, statement: str, *parameters: object) -> Row | None:
        """Return the first row, or ``None``."""
        with _explained():
            row: Row | None = self.run(statement, *parameters).fetchone()
        return row

    def all(self, statement: str, *parameters: object) -> list[Row]:
        """Return all rows: only where their number is bounded."""
        with _explained():
            return self.run(statement, *parameters).fetchall()

    def number(self, statement: str, *parameters: object) -> int:
        """Return the number in the first column of the first row, 0 if there is none."""
        row = self.one(statement, *parameters)
        return int(row[0] or 0) if row else 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a block that is written whole or not at all; blocks nest."""
        depth = self._depth
        self.run(f"SAVEPOINT level_{depth}" if depth else "BEGIN IMMEDIATE")
        self._depth = depth + 1
        try:
            yield
            self.run(f"RELEASE level_{depth}" if depth else "COMMIT")
        except BaseException:
            self._undo(depth)
            raise
        finally:
            self._depth = depth
        if self._scrub and not depth:
            self.checkpoint()

    def _undo(self, depth: int) -> None:
        with suppress(sqlite3.Error):  # the connection is closed, or SQLite has undone everything already
            if depth:
                self._connection.execute(f"ROLLBACK TO level_{depth}")
                self._connection.execute(f"RELEASE level_{depth}")
            else:
                self._connection.execute("ROLLBACK")

    def scrub(self) -> None:
        """After this transaction, leave no trace in the files of what it deleted."""
        self._scrub = True

    def checkpoint(self) -> None:
        """Write the log into the database and empty it."""
        self._scrub = False
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy_to(self, path: Path, progress: Callable[[int, int], None] | None) -> None:
        """Copy what is committed into a new database, some pages at a time.

        Args:
            path: An empty file.
            progress: Called with the pages done and the pages in all.

        Raises:
            KeyStoreUnavailableError: The copy cannot be written, or a transaction is open.
        """
        if self._depth:
            raise KeyStoreUnavailableError("a store is copied between its transactions, not within one")

        def tell(_status: int, remaining: int, total: int) -> None:
            if progress is not None:
                progress(total - remaining, total)

        with _explained(), closing(sqlite3.connect(path, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous = OFF")  # a copy that a crash cuts short is thrown away
            self._connection.backup(copy, pages=PAGES_AT_ONCE, progress=tell)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("PRAGMA secure_delete = ON")
            copy.execute("DELETE FROM unlock")

    def close(self) -> None:
        """Drop the keys and close; uncommitted writes are undone."""
        if self._sealer is not None:
            self._sealer.close()
            self._sealer = None
        self._connection.close()


def _lenient_text(text: bytes) -> str:
    return text.decode(errors="replace")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error) from error
    except OverflowError as error:
        raise InvalidArgumentError("a number is too large to be kept (63 bits)", field="number") from error


def explain(error: sqlite3.Error) -> KeyStoreError:
    """Return what an error of SQLite means for a profile."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return KeyStoreLockedError(
            "another process is using this profile; close it there, or give each process its own"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return NotAKeyStoreError("the file at this place is not a profile of Keypost; name another place")
    if code == sqlite3.SQLITE_CORRUPT:
        return KeyStoreTamperedError("the profile's file is damaged; restore a backup")
    if isinstance(error, sqlite3.IntegrityError):
        return KeyStoreConflictError("what is to be written contradicts what the profile holds")
    return KeyStoreUnavailableError(f"the profile cannot be read or written: {error}")


def conversation_text(conversation: Conversation) -> str:
    """Return a conversation as one column holds it.

    Raises:
        InvalidArgumentError: The pair is not sorted, and would have counters of its own.
    """
    if conversation_of(*conversation) != tuple(conversation):
        raise InvalidArgumentError("a conversation is its two usernames, sorted", field="conversation")
    return " ".join(conversation)


def conversation_from(text: str) -> Conversation:
    """Return the conversation that a column holds."""
    one, _, other = text.partition(" ")
    return one, other


def ensure_conversation(database: Database, conversation: Conversation) -> str:
    """Make sure that a conversation has a row, and return its text."""
    text = conversation_text(conversation)
    database.run("INSERT INTO conversations (conversation) VALUES (?) ON CONFLICT DO NOTHING", text)
    return text
