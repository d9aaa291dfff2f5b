"""The key pairs of this device: the rows behind ``KeyPairPart``."""

# ruff: noqa: S608  # statements are put together from constants of this module; values are always parameters

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreConflictError, KeyStoreTamperedError
from keypost.keystore.values import KeyPair, KeyPairState

if TYPE_CHECKING:
    from keypost.keystore.database import Database, Row

COLUMNS = "fingerprint, suite, private_key, key_request, state, replaced_time"


class SqliteKeyPairs:
    """``KeyPairPart`` in SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_pending(self, fingerprint: bytes, suite: int, private_key_der: bytes, key_request: bytes) -> None:
        """Write a new key pair down, before the CA is asked."""
        added = KeyPair(fingerprint, suite, private_key_der, key_request, KeyPairState.PENDING)
        with self._database.transaction():
            held = self.find(fingerprint)
            if held is not None and _is_same(held, added):
                return
            if held is not None or self.pending() is not None:
                raise KeyStoreConflictError("another key pair is pending; finish or destroy it first")
            self._database.run(
                "INSERT INTO key_pairs (fingerprint, suite, private_key, key_request, state) VALUES (?, ?, ?, ?, ?)",
                fingerprint,
                suite,
                self._database.seal(("key_pairs", "private_key", fingerprint, suite), private_key_der),
                self._database.seal(("key_pairs", "key_request", fingerprint, suite), key_request),
                KeyPairState.PENDING.value,
            )

    def set_key_request(self, fingerprint: bytes, key_request: bytes) -> None:
        """Replace the request of the pending pair."""
        with self._database.transaction():
            held = self.pending()
            if held is None or held.fingerprint != fingerprint:
                raise KeyStoreConflictError("no such key pair is pending")
            sealed = self._database.seal(("key_pairs", "key_request", fingerprint, held.suite), key_request)
            self._database.run("UPDATE key_pairs SET key_request = ? WHERE fingerprint = ?", sealed, fingerprint)

    def promote(self, fingerprint: bytes, replaced_time: int) -> None:
        """Make the pending pair current."""
        with self._database.transaction():
            state = self._state(fingerprint)
            if state == KeyPairState.CURRENT:
                return
            if state != KeyPairState.PENDING:
                raise KeyStoreConflictError("no such key pair is pending")
            self._database.run(
                "UPDATE key_pairs SET state = 'replaced', replaced_time = ? WHERE state = 'current'", replaced_time
            )
            self._database.run("UPDATE key_pairs SET state = 'current' WHERE fingerprint = ?", fingerprint)

    def retire(self, replaced_time: int) -> None:
        """Have no pair pending or current any more: all of them only open what was sealed to them."""
        self._database.run(
            "UPDATE key_pairs SET state = 'replaced', replaced_time = ? WHERE state <> 'replaced'", replaced_time
        )

    def pending(self) -> KeyPair | None:
        """Return the pending pair."""
        return self._read(self._database.one(f"SELECT {COLUMNS} FROM key_pairs WHERE state = 'pending'"))

    def current(self) -> KeyPair | None:
        """Return the current pair."""
        return self._read(self._database.one(f"SELECT {COLUMNS} FROM key_pairs WHERE state = 'current'"))

    def find(self, fingerprint: bytes) -> KeyPair | None:
        """Return the pair with that fingerprint."""
        row = self._database.one(f"SELECT {COLUMNS} FROM key_pairs WHERE fingerprint = ?", fingerprint)
        return self._read(row)

    def replaced(self) -> tuple[KeyPair, ...]:
        """Return the replaced pairs, the last replaced first."""
        rows = self._database.all(
            f"SELECT {COLUMNS} FROM key_pairs WHERE state = 'replaced' ORDER BY replaced_time DESC, fingerprint"
        )
        return tuple(pair for pair in map(self._read, rows) if pair is not None)

    def destroy(self, fingerprint: bytes) -> None:
        """Destroy a pending or replaced pair, on the disk too."""
        with self._database.transaction():
            if self._state(fingerprint) == KeyPairState.CURRENT:
                raise KeyStoreConflictError("the current key pair is not destroyed; promote its successor first")
            self._database.run("DELETE FROM key_pairs WHERE fingerprint = ?", fingerprint)
            self._database.scrub()

    def _state(self, fingerprint: bytes) -> str | None:
        row = self._database.one("SELECT state FROM key_pairs WHERE fingerprint = ?", fingerprint)
        return None if row is None else row[0]

    def _read(self, row: Row | None) -> KeyPair | None:
        if row is None:
            return None
        fingerprint, suite, private_key, key_request, state, replaced_time = row
        if state not in list(KeyPairState):
            raise KeyStoreTamperedError("the profile was changed from outside (key_pairs, state); restore a backup")
        return KeyPair(
            fingerprint=fingerprint,
            suite=suite,
            private_key_der=self._database.open(("key_pairs", "private_key", fingerprint, suite), private_key),
            key_request=self._database.open(("key_pairs", "key_request", fingerprint, suite), key_request),
            state=KeyPairState(state),
            replaced_time=replaced_time,
        )


def _is_same(held: KeyPair, added: KeyPair) -> bool:
    same_key = hmac.compare_digest(held.private_key_der, added.private_key_der)
    return same_key and replace(held, private_key_der=b"") == replace(added, private_key_der=b"")
