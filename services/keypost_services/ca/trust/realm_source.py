"""Where the CA's settings say that the realm's files are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, load_realm, load_signers, read_file

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.clock import Clock
    from keypost_services.ca.settings import CaSettings
    from keypost_services.ca.trust.realm import Realm


class RealmSource:
    """Reads the realm's files.

    Args:
        settings: Say where they are, and what opens them.
        clock: The time.
    """

    def __init__(self, settings: CaSettings, clock: Clock) -> None:
        self.folder = RealmFolder(settings.realm_folder)
        self._settings = settings
        self._clock = clock

    def load(self) -> Realm:
        """Return what the files say, verified. Blocks.

        Raises:
            RealmFilesError: A file is missing or wrong.
        """
        realm = load_realm(self.folder, self._clock())
        return replace(realm, signers=load_signers(self._record_keys(), self._passphrase))

    def state(self) -> tuple[tuple[str, int, int, int], ...]:
        """Return what differs once a file has changed, has come or has gone. Blocks."""
        files = (self.folder.root_public, self.folder.realm_trust, *self.folder.earlier_statements)
        return tuple(_state_of(file) for file in (*files, *self._key_files()))

    def _record_keys(self) -> tuple[Path, ...]:
        if files := self._key_files():
            return files
        raise RealmFilesError(f"there is no record key in {self._settings.record_key or self.folder.path}")

    def _key_files(self) -> tuple[Path, ...]:
        place = self._settings.record_key
        if place is None:
            return self.folder.record_keys
        return tuple(sorted(place.glob("*.key"))) if place.is_dir() else (place,)

    def _passphrase(self) -> str:
        settings = self._settings
        if settings.passphrase_file is not None:
            return first_line(settings.passphrase_file)
        if settings.passphrase is not None:
            return settings.passphrase.get_secret_value()
        raise RealmFilesError("a record key is sealed: set KEYPOST_CA_PASSPHRASE_FILE")


def first_line(file: Path) -> str:
    """Return the passphrase in a file: its first line.

    Raises:
        RealmFilesError: There is none.
    """
    try:
        line = read_file(file).decode().splitlines()[0]
    except (UnicodeDecodeError, IndexError) as error:
        raise RealmFilesError(f"the first line of {file} must be a passphrase") from error
    if not line:
        raise RealmFilesError(f"the first line of {file} must be a passphrase")
    return line


def _state_of(file: Path) -> tuple[str, int, int, int]:
    try:
        state = file.stat()
    except OSError:
        return str(file), 0, 0, 0
    return str(file), state.st_mtime_ns, state.st_size, state.st_ino
