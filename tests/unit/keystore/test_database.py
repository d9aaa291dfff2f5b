from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import (
    KeyStoreConflictError,
    KeyStoreError,
    KeyStoreUnavailableError,
    create_store,
    open_store,
    store,
)
from keypost.keystore.database import Database
from keypost.keystore.errors import BackupError
from support.key_store import BUNDLE, REALM, UNLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database() -> Iterator[Database]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        made = Database(connection)
        made.run("CREATE TABLE one (number INTEGER PRIMARY KEY)")
        yield made


def test_a_transaction_that_sqlite_gave_up_keeps_nothing_that_follows(database: Database) -> None:
    with pytest.raises(KeyStoreUnavailableError, match="given up"), database.transaction():  # noqa: PT012
        database.run("INSERT INTO one VALUES (1)")
        database._connection.execute("ROLLBACK")
        database.run("INSERT INTO one VALUES (2)")
    assert database.all("SELECT * FROM one") == []
    with database.transaction():
        database.run("INSERT INTO one VALUES (3)")
    assert database.all("SELECT * FROM one") == [(3,)]


def test_what_the_tables_forbid_is_a_conflict(database: Database) -> None:
    database.run("INSERT INTO one VALUES (1)")
    with pytest.raises(KeyStoreConflictError):
        database.run("INSERT INTO one VALUES (1)")


def test_a_full_disk_is_told_and_leaves_what_was_committed(tmp_path: Path) -> None:
    key_store = create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
    key_store.profile.set_note("first", b"kept")
    pages = key_store._database.number("PRAGMA page_count")
    key_store._database.run(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(KeyStoreUnavailableError, match="full"), key_store.transaction():  # noqa: PT012
        key_store.profile.set_note("second", b"small")
        key_store.profile.set_note("third", bytes(1 << 20))
    assert key_store.profile.note("second") is None
    key_store.close()
    again = open_store(tmp_path, UNLOCK)
    assert again.profile.note("first") == b"kept"
    again.close()


def test_a_file_that_vanishes_before_it_is_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreUnavailableError), store._opened(tmp_path / "gone"):
        pass


def test_every_error_has_a_reason_of_its_own() -> None:
    kinds = [*KeyStoreError.__subclasses__(), *BackupError.__subclasses__()]
    assert len({kind.reason for kind in kinds}) == len(kinds) == 17
