"""The local key store in SQLite: how it is created, opened, locked, migrated and closed.

One connection in exclusive locking mode: SQLite's own file lock keeps other processes out on every system, and dies
with the process. WAL with ``synchronous=FULL``: what is committed survives a crash and a power cut.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.keystore.attempts import SqliteAttempts
from keypost.keystore.copies import FILE_NAME, remove_copies, take_snapshot
from keypost.keystore.counters import SqliteCounters
from keypost.keystore.database import Database, explain
from keypost.keystore.envelopes import SqliteSetAside, SqliteWaiting
from keypost.keystore.errors import (
    KeyStoreEmptyError,
    KeyStoreExistsError,
    KeyStoreFormatError,
    KeyStoreMissingError,
    KeyStoreTamperedError,
    KeyStoreUnavailableError,
    NotAKeyStoreError,
)
from keypost.keystore.files import SqliteFiles
from keypost.keystore.inbox import SqliteInbox
from keypost.keystore.key_pairs import SqliteKeyPairs
from keypost.keystore.outbox import SqliteOutbox
from keypost.keystore.private_files import make_private
from keypost.keystore.profile import SqliteProfile
from keypost.keystore.records import SqliteRecords
from keypost.keystore.schema import APPLICATION_ID, MIGRATIONS
from keypost.keystore.sealing import new_sealer, open_sealer
from keypost.keystore.sessions import SqliteSessions
from keypost.keystore.transfers import SqliteTransfers
from keypost.keystore.values import Limits, Totals
from keypost.protocol.identifiers import check_realm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from keypost.keystore.copies import Snapshot
    from keypost.keystore.sealing import Sealer
    from keypost.keystore.unlock import Unlock

PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "fullfsync = ON",  # on macOS alone fsync leaves data in the drive's cache
    "foreign_keys = ON",
    "secure_delete = ON",
)

PRUNING = (
    "DELETE FROM sessions WHERE create_time < ?",
    "DELETE FROM received WHERE time < ?",
    "DELETE FROM inbox WHERE state = 'handled' AND accept_time < ?",
    "DELETE FROM closed_keys WHERE time < ?",
    "DELETE FROM files WHERE received < count AND update_time < ?",
    "DELETE FROM attempts WHERE time < ?",
)


class SqliteKeyStore:
    """``KeyStore`` over an unlocked database.

    Args:
        database: The database.
        limits: How much the store takes of what others can fill.
        folder: Where it is; None for one in memory.
    """

    def __init__(self, database: Database, limits: Limits, folder: Path | None = None) -> None:
        self._database = database
        self._folder = folder
        self.profile = SqliteProfile(database)
        self.key_pairs = SqliteKeyPairs(database)
        self.records = SqliteRecords(database, limits.evidence_count)
        self.sessions = SqliteSessions(database)
        self.counters = SqliteCounters(database)
        self.inbox = SqliteInbox(database)
        self.attempts = SqliteAttempts(database)
        of_one_user = Totals(limits.user_count, limits.user_size)
        set_aside, waiting = (
            Totals(limits.set_aside_count, limits.set_aside_size),
            Totals(limits.waiting_count, limits.waiting_size),
        )
        self.set_aside = SqliteSetAside(database, set_aside, of_one_user)
        self.waiting = SqliteWaiting(database, waiting, of_one_user, self.set_aside)
        self.outbox = SqliteOutbox(database, Totals(limits.outbox_count, limits.outbox_size))
        self.transfers = SqliteTransfers(database, limits.transfers_count)
        self.files = SqliteFiles(database, limits.incomplete_file_size)

    def transaction(self) -> AbstractContextManager[None]:
        """Open a block that is written whole or not at all."""
        return self._database.transaction()

    def prune(self, before: int) -> None:
        """Erase what is older than the age limit."""
        with self._database.transaction():
            for statement in PRUNING:
                self._database.run(statement, before)
            self._database.scrub()

    def change_unlock(self, unlock: Unlock) -> None:
        """Seal the data key anew."""
        parameters, sealed = self._database.sealer.seal_data_key(unlock)
        with self._database.transaction():
            self._database.run("INSERT OR REPLACE INTO unlock VALUES (1, ?, ?, ?)", unlock.kind, parameters, sealed)
            self._database.scrub()

    def snapshot(self, progress: Callable[[int, int], None] | None = None) -> Snapshot:
        """Copy the whole store, as it is now, into a file beside it."""
        return take_snapshot(self._database, self._folder, progress)

    def close(self) -> None:
        """Close the store and drop its keys."""
        self._database.close()


def create_store(
    folder: Path, unlock: Unlock, *, realm: str, bundle: bytes, limits: Limits | None = None
) -> SqliteKeyStore:
    """Create a local key store, readable by its owner alone, and open it.

    Args:
        folder: The folder of the profile; made if it is not there.
        unlock: What shall unlock it from now on.
        realm: The realm.
        bundle: The serialised bundle that the client starts from.
        limits: How much the store takes of what others can fill.

    Raises:
        KeyStoreExistsError: There is a profile in that folder.
        KeyStoreLockedError: Another process is making one.
        NotAKeyStoreError: The file at that place is something else.
        WrongPassphraseError: The key file or variable cannot be read or made.
        InvalidArgumentError: The realm cannot be one, or the passphrase is empty.
    """
    path = Path(folder) / FILE_NAME
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One that is there is not opened: closing it again would end the lock of a store that this process has open.
        with suppress(FileExistsError):
            make_private(path)
    except OSError as error:
        raise KeyStoreUnavailableError(f"no profile can be made at {folder}: {error.strerror}") from error
    with _opened(path) as database:
        if _is_initialised(database):
            raise KeyStoreExistsError(f"there is a profile at {folder} already; open it, or name another place")
        return _initialise(database, unlock, realm, bundle, limits, path.parent)


def open_store(folder: Path, unlock: Unlock, *, limits: Limits | None = None) -> SqliteKeyStore:
    """Open a local key store, and keep other processes out of it until it is closed.

    Args:
        folder: The folder of the profile.
        unlock: What unlocks it.
        limits: How much the store takes of what others can fill.

    Raises:
        KeyStoreMissingError: There is no profile in that folder.
        KeyStoreEmptyError: There is a file, with nothing in it.
        NotAKeyStoreError: The file at that place is something else.
        KeyStoreFormatError: A newer version wrote it.
        KeyStoreLockedError: Another process uses it.
        WrongPassphraseError: It does not unlock this profile.
        KeyStoreTamperedError: It is damaged.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise KeyStoreMissingError(f"there is no profile at {folder}; enrol first, or name another place")
    with _opened(path) as database:
        if not _is_initialised(database):
            raise KeyStoreEmptyError(
                f"the profile at {folder} is empty: its making was cut short, or somebody emptied it; enrol again, or "
                "restore a backup"
            )
        _check_version(database)
        row = database.one("SELECT kind, parameters, sealed_data_key FROM unlock")
        if row is None:
            raise KeyStoreTamperedError("the profile has lost its data key; restore a backup")
        database.unlock(open_sealer(unlock, *row))
        _migrate(database)
        database.checkpoint()
        _check_whole(database, path)
        remove_copies(path.parent)
        return SqliteKeyStore(database, limits or Limits(), path.parent)


@contextmanager
def open_copy(path: Path, sealer: Sealer) -> Iterator[SqliteKeyStore]:
    """Open a copy of a store that nothing unlocks yet, and close it again: all of it is in its one file then.

    Args:
        path: The copy.
        sealer: What its values are sealed with.

    Raises:
        NotAKeyStoreError: It is no copy of a store.
        KeyStoreFormatError: The store is of a newer version.
    """
    with _opened(path) as database:
        database.unlock(sealer)
        if not _is_initialised(database):
            raise NotAKeyStoreError("there is no profile of Keypost in this copy")
        _check_version(database)
        _migrate(database)
        try:
            yield SqliteKeyStore(database, Limits())
            database.checkpoint()
        finally:
            database.close()


def create_memory_store(unlock: Unlock, *, realm: str, bundle: bytes, limits: Limits | None = None) -> SqliteKeyStore:
    """Create a store that lives in memory and ends with the process: for tests, and for short-lived clients.

    Args and errors as ``create_store``.
    """
    database = Database(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
    database.run("PRAGMA foreign_keys = ON")
    return _initialise(database, unlock, realm, bundle, limits, None)


@contextmanager
def _opened(path: Path) -> Iterator[Database]:
    """Connect, lock, and close again if the block fails."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise explain(error) from error
    database = Database(connection)
    try:
        database.run("PRAGMA locking_mode = EXCLUSIVE")
        _is_initialised(database)  # refuses another program's file before the next lines change it
        for pragma in PRAGMAS:
            database.run(f"PRAGMA {pragma}")
        with database.transaction():  # takes the lock, which the exclusive mode then keeps
            pass
        yield database
    except BaseException:
        database.close()
        raise


def _is_initialised(database: Database) -> bool:
    application = database.number("PRAGMA application_id")
    if application == APPLICATION_ID:
        return True
    if application or database.number("SELECT count(*) FROM sqlite_master"):
        raise NotAKeyStoreError("the file at this place is not a profile of Keypost; name another place")
    return False


def _check_whole(database: Database, path: Path) -> None:
    """Raise if the file ends within its last page: SQLite takes what is missing there for zeros."""
    size = database.number("PRAGMA page_size") * database.number("PRAGMA page_count")
    if path.stat().st_size < size:
        raise KeyStoreTamperedError("the profile's file is cut; restore a backup")


def _check_version(database: Database) -> None:
    version = database.number("PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise KeyStoreFormatError(
            f"a newer Keypost wrote this profile (format {version}, this one reads up to {len(MIGRATIONS)});"
            " install that version",
            format=str(version),
        )


def _migrate(database: Database) -> None:
    version = database.number("PRAGMA user_version")
    if version == len(MIGRATIONS):
        return
    with database.transaction():
        for migration in MIGRATIONS[version:]:
            for statement in migration:
                database.run(statement)
        database.run(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _initialise(
    database: Database, unlock: Unlock, realm: str, bundle: bytes, limits: Limits | None, folder: Path | None
) -> SqliteKeyStore:
    check_realm(realm)
    database.unlock(new_sealer())
    store = SqliteKeyStore(database, limits or Limits(), folder)
    with database.transaction():
        database.run(f"PRAGMA application_id = {APPLICATION_ID}")
        _migrate(database)
        store.change_unlock(unlock)
        store.profile.create(realm, bundle)
    return store
