from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import KeyStore, KeyStoreTamperedError, Limits, create_store, open_store
from keypost.keystore.copies import FILE_NAME
from keypost.keystore.values import (
    Evidence,
    KeyPair,
    KeyPairState,
    OwnExtension,
    StoredRealmTrust,
    StoredRecord,
    StoredStatement,
)
from support.key_store import (
    ALICE,
    BOB,
    BOTH,
    BUNDLE,
    FILE,
    MESSAGE,
    NOW,
    OUTGOING,
    REALM,
    SESSION,
    TRANSFER,
    UNLOCK,
    WAITING,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OTHER = b"\xff" * 32
SECRETS = {
    "private key": b"the private key, PKCS8",
    "key request": b"the key request",
    "session key": SESSION.session_key,
    "statement": b"the extension statement",
    "own extension": b"the own extension",
    "sealed key": b"the key sealed to bob",
    "body": MESSAGE.content,
    "body on its way": OUTGOING.content,
    "envelope": WAITING.envelope,
    "file": b"p4rt",
    "file name": FILE.name.encode(),
    "path": b"/home/alice/secret plans",
    "passphrase": UNLOCK.passphrase.encode(),
    "bundle": BUNDLE,
    "realm trust": b"the realm trust",
    "key info": b"the key info of bob",
    "pins": b"the pins of bob",
    "evidence": b"the evidence",
    "note": b"the note",
}

SEALED: dict[tuple[str, str], Callable[[KeyStore], object]] = {
    ("profile", "bundle"): lambda s: s.profile.read(),
    ("realm_trust", "signed"): lambda s: s.profile.realm_trust(),
    ("notes", "value"): lambda s: s.profile.note("one"),
    ("key_pairs", "private_key"): lambda s: (s.key_pairs.pending(), s.key_pairs.current()),
    ("key_pairs", "key_request"): lambda s: (s.key_pairs.pending(), s.key_pairs.current()),
    ("records", "key_info"): lambda s: s.records.find("bob"),
    ("pins", "pins"): lambda s: s.records.pins("bob"),
    ("evidence", "previous"): lambda s: s.records.evidence("bob"),
    ("evidence", "current"): lambda s: s.records.evidence("bob"),
    ("sessions", "session_key"): lambda s: s.sessions.newest(BOTH),
    ("sessions", "own_extension"): lambda s: s.sessions.own_extension(BOTH, SESSION.key_id),
    ("statements", "statement"): lambda s: [
        s.sessions.statement(BOTH, SESSION.key_id, signer) for signer in (ALICE, BOB)
    ],
    ("inbox", "content"): lambda s: s.inbox.next_unhandled(),
    ("envelopes", "envelope"): lambda s: s.waiting.page(),
    ("outbox", "content"): lambda s: s.outbox.page(),
    ("transfers", "description"): lambda s: s.transfers.all(),
    ("files", "description"): lambda s: s.files.find(BOB, FILE.file_id),
    ("file_parts", "data"): lambda s: list(s.files.read(BOB, FILE.file_id)),
}
"""Every sealed column, and how it is read."""

CLEAR = {"fingerprint", "creator_fingerprint", "key_id", "message_id", "digest", "sealed_to", "file_id"}
"""Names in bytes, which are no secrets."""

BOUND = {
    "profile": ["realm", "address"],
    "realm_trust": ["sequence"],
    "notes": [],
    "key_pairs": ["suite"],
    "records": ["epoch", "revision", "this_update"],
    "pins": [],
    "evidence": ["reason", "time"],
    "sessions": ["suite", "creator", "create_time"],
    "statements": [],
    "inbox": ["sender", "counter", "send_time", "accept_time", "missed", "verified"],
    "envelopes": ["accept_time", "receive_time", "reason", "username"],
    "outbox": ["recipient", "counter", "create_time"],
    "transfers": ["recipient", "count", "size", "create_time"],
    "files": ["count", "size"],
    "file_parts": [],
}
"""Columns in the clear that a sealed value of their row is bound to."""


def fill(key_store: KeyStore) -> None:
    """Write two rows of everything that is sealed."""
    profile, key_pairs, records, sessions = (
        key_store.profile,
        key_store.key_pairs,
        key_store.records,
        key_store.sessions,
    )
    profile.set_address(ALICE)
    profile.set_realm_trust(StoredRealmTrust(1, SECRETS["realm trust"]))
    for number, name in enumerate(("one", "two"), start=1):
        profile.set_note(name, SECRETS["note"])
        key_pairs.add_pending(bytes([number]) * 32, 2, SECRETS["private key"], SECRETS["key request"])
        if name == "one":
            key_pairs.promote(b"\x01" * 32, NOW)
        username = "alice" if name == "one" else "bob"
        records.put(StoredRecord(username, 1, 1, NOW, SECRETS["key info"]))
        records.set_pins(username, SECRETS["pins"])
        records.add_evidence(Evidence("bob", name.upper(), SECRETS["evidence"], b"current", NOW))
        key_id = SESSION.key_id if name == "one" else OTHER
        sessions.add(replace(SESSION, key_id=key_id))
        for signer in (ALICE, BOB):
            sessions.add_statement(BOTH, key_id, StoredStatement(signer, SECRETS["statement"], b"signature"))
        own = OwnExtension(SECRETS["own extension"], b"signature", ((OTHER, SECRETS["sealed key"]),))
        sessions.set_own_extension(BOTH, key_id, own)
        key_store.inbox.add(replace(MESSAGE, message_id=bytes([number]) * 16))
        key_store.waiting.add(replace(WAITING, envelope=WAITING.envelope + bytes([number])))
        key_store.outbox.add(replace(OUTGOING, message_id=bytes([number]) * 16))
        key_store.transfers.add(replace(TRANSFER, file_id=bytes([number]) * 16, path=SECRETS["path"].decode()))
        for index in range(FILE.count):
            file = replace(FILE, file_id=FILE.file_id if name == "one" else bytes(16))
            key_store.files.add_part(file, index, SECRETS["file"], NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed profile with two rows of everything."""
    key_store = create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
    with key_store.transaction():
        fill(key_store)
    key_store.close()
    return tmp_path


def edit(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def reads(folder: Path, table: str, column: str) -> object:
    key_store = open_store(folder, UNLOCK, limits=Limits())
    try:
        return SEALED[table, column](key_store)
    finally:
        key_store.close()


def files_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_no_secret_is_in_the_files_open_or_closed(tmp_path: Path) -> None:
    key_store = create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
    fill(key_store)
    opened = files_of(tmp_path)
    key_store.close()
    closed = files_of(tmp_path)
    assert REALM.encode() in opened
    assert str(BOB).encode() in closed
    for name, secret in SECRETS.items():
        assert secret not in opened, name
        assert secret not in closed, name


@pytest.mark.parametrize(("table", "column"), SEALED)
def test_every_sealed_value_can_be_read(folder: Path, table: str, column: str) -> None:
    assert reads(folder, table, column)


def test_every_column_of_bytes_is_sealed_or_known_to_be_no_secret(folder: Path) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            (table, row[1])
            for table in tables
            for row in connection.execute(f"PRAGMA table_info({table})")
            if row[2] == "BLOB" and row[1] not in CLEAR
        }
    assert columns == {*SEALED, ("unlock", "sealed_data_key")}


@pytest.mark.parametrize(("table", "column"), SEALED)
def test_a_changed_value_is_noticed(folder: Path, table: str, column: str) -> None:
    edit(folder, f"UPDATE {table} SET {column} = {column} || x'00'")
    with pytest.raises(KeyStoreTamperedError):
        reads(folder, table, column)


@pytest.mark.parametrize(("table", "column"), [place for place in SEALED if place[0] not in {"profile", "realm_trust"}])
def test_values_that_change_places_are_noticed(folder: Path, table: str, column: str) -> None:
    rows = f"FROM {table} ORDER BY rowid"
    edit(
        folder,
        f"CREATE TEMP TABLE swap AS SELECT (SELECT rowid {rows} LIMIT 1) AS row,"
        f" (SELECT {column} {rows} DESC LIMIT 1) AS value UNION ALL SELECT (SELECT rowid {rows} DESC LIMIT 1),"
        f" (SELECT {column} {rows} LIMIT 1)",
        f"UPDATE {table} SET {column} = (SELECT value FROM swap WHERE row = {table}.rowid)"
        " WHERE rowid IN (SELECT row FROM swap)",
    )
    with pytest.raises(KeyStoreTamperedError):
        reads(folder, table, column)


def test_values_of_one_row_that_change_columns_are_noticed(folder: Path) -> None:
    edit(folder, "UPDATE key_pairs SET private_key = key_request, key_request = private_key")
    with pytest.raises(KeyStoreTamperedError):
        reads(folder, "key_pairs", "private_key")


@pytest.mark.parametrize(("table", "column"), [(table, column) for table in BOUND for column in BOUND[table]])
def test_what_a_value_is_bound_to_cannot_be_edited(folder: Path, table: str, column: str) -> None:
    edit(folder, f"UPDATE {table} SET {column} = {column} || '1'")
    sealed = next(place for place in SEALED if place[0] == table)
    with pytest.raises(KeyStoreTamperedError):
        reads(folder, *sealed)


def test_a_state_that_is_none_is_noticed(folder: Path) -> None:
    edit(folder, "PRAGMA ignore_check_constraints = ON", "UPDATE key_pairs SET state = 'nonsense'")
    key_store = open_store(folder, UNLOCK)
    with pytest.raises(KeyStoreTamperedError):
        key_store.key_pairs.find(b"\x01" * 32)
    key_store.close()


def test_a_destroyed_key_leaves_no_trace_in_the_files(folder: Path) -> None:
    key_store = open_store(folder, UNLOCK)
    row = key_store._database.one("SELECT private_key FROM key_pairs WHERE state = 'pending'")
    assert row is not None
    assert row[0] in files_of(folder)
    key_store.key_pairs.destroy(b"\x02" * 32)
    assert row[0] not in files_of(folder)
    key_store.close()


def test_a_destroyed_key_stays_when_the_transaction_fails(folder: Path) -> None:
    key_store = open_store(folder, UNLOCK)
    with pytest.raises(ZeroDivisionError), key_store.transaction():  # noqa: PT012
        key_store.key_pairs.destroy(b"\x02" * 32)
        raise ZeroDivisionError
    assert key_store.key_pairs.pending() is not None
    key_store.close()


def test_an_earlier_unlock_leaves_no_trace_in_the_files(folder: Path) -> None:
    key_store = open_store(folder, UNLOCK)
    row = key_store._database.one("SELECT sealed_data_key FROM unlock")
    assert row is not None
    key_store.change_unlock(UNLOCK)
    assert row[0] not in files_of(folder)
    key_store.close()


def test_no_repr_shows_a_secret(folder: Path) -> None:
    key_store = open_store(folder, UNLOCK)
    pair = KeyPair(OTHER, 2, SECRETS["private key"], SECRETS["key request"], KeyPairState.PENDING)
    shown = "".join(map(repr, (key_store, key_store._database, key_store._database.sealer, UNLOCK, pair)))
    for read in SEALED.values():
        if read is not SEALED["file_parts", "data"]:
            shown += repr(read(key_store))
    for name in ("private key", "session key", "body", "body on its way", "passphrase"):
        assert SECRETS[name].decode() not in shown, name
    key_store.close()
