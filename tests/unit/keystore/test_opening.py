from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.errors import InvalidArgumentError
from keypost.keystore import (
    KeyStoreEmptyError,
    KeyStoreExistsError,
    KeyStoreFormatError,
    KeyStoreLockedError,
    KeyStoreMissingError,
    KeyStoreTamperedError,
    KeyStoreUnavailableError,
    NotAKeyStoreError,
    Passphrase,
    WrongPassphraseError,
    create_memory_store,
    create_store,
    open_store,
    schema,
    store,
)
from keypost.keystore.copies import FILE_NAME
from support.key_store import BUNDLE, CHEAP, REALM, UNLOCK, Reopening, message, unhandled

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.keystore import Unlock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A profile that nobody has open."""
    made = Reopening.new(tmp_path / "a profile")
    made.store.close()
    return tmp_path / "a profile"


def edit(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.execute(statement)
        connection.commit()


def opens(folder: Path, unlock: Unlock = UNLOCK) -> bool:
    open_store(folder, unlock).close()
    return True


def test_there_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreMissingError, match="enrol first"):
        open_store(tmp_path / "nowhere", UNLOCK)


def test_a_profile_is_made_once(folder: Path) -> None:
    with pytest.raises(KeyStoreExistsError):
        create_store(folder, UNLOCK, realm=REALM, bundle=BUNDLE)
    assert opens(folder)


def test_a_creation_that_was_cut_short_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(KeyStoreEmptyError, match="is empty"):
        open_store(tmp_path, UNLOCK)
    with pytest.raises(InvalidArgumentError):
        create_store(tmp_path, Passphrase("", CHEAP), realm=REALM, bundle=BUNDLE)
    with pytest.raises(KeyStoreEmptyError):
        open_store(tmp_path, UNLOCK)
    create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE).close()
    assert opens(tmp_path)


def test_a_realm_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        create_memory_store(UNLOCK, realm="No Realm", bundle=BUNDLE)


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KeyStoreUnavailableError, match="file"):
        create_store(tmp_path / "file" / "profile", UNLOCK, realm=REALM, bundle=BUNDLE)


@pytest.mark.parametrize("content", [b"something else entirely" * 100, b"SQLite format 3\x00" + bytes(4096)])
def test_another_file_is_no_profile_and_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises((NotAKeyStoreError, KeyStoreTamperedError)):
        open_store(tmp_path, UNLOCK)
    with pytest.raises((NotAKeyStoreError, KeyStoreTamperedError)):
        create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
    assert (tmp_path / FILE_NAME).read_bytes() == content


@pytest.mark.parametrize("statement", ["CREATE TABLE other (id)", "PRAGMA application_id = 7"])
def test_the_database_of_another_program_is_left_alone(tmp_path: Path, statement: str) -> None:
    edit(tmp_path, statement)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(NotAKeyStoreError):
        open_store(tmp_path, UNLOCK)
    with pytest.raises(NotAKeyStoreError):
        create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_profile_of_a_newer_version_is_refused(folder: Path) -> None:
    edit(folder, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(KeyStoreFormatError, match="newer Keypost"):
        open_store(folder, UNLOCK)


def test_a_profile_of_an_older_version_is_migrated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = ("CREATE TABLE later (id INTEGER)", "INSERT INTO later VALUES (7)")
    monkeypatch.setattr(store, "MIGRATIONS", (*schema.MIGRATIONS, later))
    for _ in range(2):
        opened = open_store(folder, UNLOCK)
        assert opened._database.all("SELECT id FROM later") == [(7,)]
        opened.close()


def test_what_was_handed_out_by_an_older_version_counts_as_one_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", schema.MIGRATIONS[:4])
        older = create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
        for number in (1, 2):
            older.inbox.add(message(number))
        older._database.run("UPDATE inbox SET state = 'handed_out' WHERE sequence = 1")
        older.close()
    newer = open_store(tmp_path, UNLOCK)
    assert [(one.content, one.attempts, one.redelivered) for one in unhandled(newer)] == [
        (message(1).content, 2, True),
        (message(2).content, 1, False),
    ]
    newer.close()


def test_a_migration_that_fails_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (id INTEGER)", "NONSENSE")))
        with pytest.raises(KeyStoreUnavailableError):
            open_store(folder, UNLOCK)
    opened = open_store(folder, UNLOCK)
    assert opened._database.all("SELECT * FROM sqlite_master WHERE name = 'later'") == []
    opened.close()


def test_a_wrong_passphrase_is_told(folder: Path) -> None:
    with pytest.raises(WrongPassphraseError, match="passphrase is wrong"):
        open_store(folder, Passphrase("wrong"))
    assert opens(folder)


def test_one_opens_at_a_time(folder: Path) -> None:
    opened = open_store(folder, UNLOCK)
    for _ in range(2):
        with pytest.raises(KeyStoreLockedError, match="another process"):
            open_store(folder, UNLOCK)
    with pytest.raises(KeyStoreLockedError):
        create_store(folder, UNLOCK, realm=REALM, bundle=BUNDLE)
    opened.profile.set_note("note", b"still works")
    opened.close()
    assert opens(folder)


@pytest.mark.parametrize("table", ["unlock", "profile"])
def test_a_profile_without_its_first_rows_is_damaged(folder: Path, table: str) -> None:
    edit(folder, f"DELETE FROM {table}")  # the test's own words
    with pytest.raises(KeyStoreTamperedError):
        open_store(folder, UNLOCK).profile.read()


def test_a_file_with_a_destroyed_page_is_damaged(folder: Path) -> None:
    path = folder / FILE_NAME
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    with pytest.raises(KeyStoreTamperedError):
        open_store(folder, UNLOCK)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_law_wherever_a_profile_is_cut_it_is_told_and_left_alone(folder: Path, data: st.DataObject) -> None:
    whole, path = (folder / FILE_NAME).read_bytes(), folder.parent / FILE_NAME
    # SQLite takes a file of one byte for an empty one.
    cut = whole[: data.draw(st.integers(2, len(whole) - 1))]
    path.write_bytes(cut)
    with pytest.raises((NotAKeyStoreError, KeyStoreTamperedError)):
        open_store(folder.parent, UNLOCK)
    assert path.read_bytes() == cut


@pytest.mark.skipif(os.name != "posix", reason="other systems protect the folder of the user")
def test_a_profile_is_readable_by_its_owner_alone(folder: Path) -> None:
    opened = open_store(folder, UNLOCK)
    opened.profile.set_note("note", b"so that there is a log")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    opened.close()


def test_the_connection_is_durable_and_checks_references(folder: Path) -> None:
    opened = open_store(folder, UNLOCK)
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "locking_mode": "exclusive",
    }
    assert {name: opened._database.one(f"PRAGMA {name}") for name in expected} == {
        name: (value,) for name, value in expected.items()
    }
    opened.close()


def test_who_tries_to_make_a_profile_anew_does_not_unlock_it_for_others(folder: Path) -> None:
    held = open_store(folder, UNLOCK)
    with pytest.raises(KeyStoreLockedError):
        create_store(folder, UNLOCK, realm=REALM, bundle=BUNDLE)
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM unlock').fetchall()"
    done = subprocess.run([sys.executable, "-c", other, folder / FILE_NAME], capture_output=True, check=False)
    assert b"database is locked" in done.stderr
    held.close()
