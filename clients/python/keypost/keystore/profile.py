"""Who this installation is, and whom it trusts: the rows behind ``ProfilePart``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreConflictError, KeyStoreTamperedError
from keypost.keystore.values import Profile, StoredRealmTrust
from keypost.protocol.identifiers import Address

if TYPE_CHECKING:
    from keypost.keystore.database import Database


class SqliteProfile:
    """``ProfilePart`` in SQLite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, realm: str, bundle: bytes) -> None:
        """Write the first row of a new store."""
        self._write(Profile(realm, bundle, None))

    def _write(self, profile: Profile) -> None:
        address = None if profile.address is None else str(profile.address)
        sealed = self._database.seal(("profile", "bundle", profile.realm, str(address)), profile.bundle)
        self._database.run("INSERT OR REPLACE INTO profile VALUES (1, ?, ?, ?)", profile.realm, sealed, address)

    def read(self) -> Profile:
        """Return the profile."""
        row = self._database.one("SELECT realm, bundle, address FROM profile")
        if row is None:
            raise KeyStoreTamperedError("the profile has lost its first row; restore a backup")
        realm, bundle, address = row
        return Profile(
            realm=realm,
            bundle=self._database.open(("profile", "bundle", realm, str(address)), bundle),
            address=None if address is None else Address.parse(address),
        )

    def set_address(self, address: Address) -> None:
        """Note the own address."""
        with self._database.transaction():
            self._write(replace(self.read(), address=address))

    def set_bundle(self, bundle: bytes) -> None:
        """Replace the serialised bundle."""
        with self._database.transaction():
            self._write(replace(self.read(), bundle=bundle))

    def realm_trust(self) -> StoredRealmTrust | None:
        """Return the newest realm trust."""
        row = self._database.one("SELECT sequence, signed FROM realm_trust")
        if row is None:
            return None
        sequence, signed = row
        return StoredRealmTrust(sequence, self._database.open(("realm_trust", "signed", sequence), signed))

    def set_realm_trust(self, trust: StoredRealmTrust) -> None:
        """Keep a verified realm trust, never an older one."""
        with self._database.transaction():
            held = self.realm_trust()
            if held == trust:
                return
            _check_later(held, trust)
            sealed = self._database.seal(("realm_trust", "signed", trust.sequence), trust.signed)
            self._database.run("INSERT OR REPLACE INTO realm_trust VALUES (1, ?, ?)", trust.sequence, sealed)

    def note(self, name: str) -> bytes | None:
        """Return the note of that name."""
        row = self._database.one("SELECT value FROM notes WHERE name = ?", name)
        return None if row is None else self._database.open(("notes", "value", name), row[0])

    def set_note(self, name: str, value: bytes | None) -> None:
        """Write or remove the note of that name."""
        if value is None:
            self._database.run("DELETE FROM notes WHERE name = ?", name)
            return
        sealed = self._database.seal(("notes", "value", name), value)
        self._database.run("INSERT OR REPLACE INTO notes VALUES (?, ?)", name, sealed)


def _check_later(held: StoredRealmTrust | None, trust: StoredRealmTrust) -> None:
    if held is not None and trust.sequence <= held.sequence:
        raise KeyStoreConflictError("a realm trust of this or a higher sequence is held already")
