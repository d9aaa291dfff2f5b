"""Copies of a key store beside it: what a backup is made from, and what a restored store is made in."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.keystore.errors import KeyStoreUnavailableError
from keypost.keystore.private_files import make_private
from keypost.keystore.sealing import wipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.keystore.database import Database

FILE_NAME = "keystore.sqlite3"
COPY_NAME = f"{FILE_NAME}.copy"
RESTORING_NAME = f"{FILE_NAME}.restoring"


def side_files(path: Path) -> tuple[Path, ...]:
    """Return where SQLite keeps what is not in a database's own file yet."""
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-journal", "-shm"))


@dataclass(frozen=True)
class Snapshot:
    """A copy of a key store as it was at one moment, without what unlocks it.

    Attributes:
        path: The copy, a file of its own.
        data_key: What the values in it are sealed under, 32 bytes.
    """

    path: Path
    data_key: bytearray = field(repr=False)

    def close(self) -> None:
        """Remove the copy and wipe its key."""
        wipe(self.data_key)
        remove(self.path)


def take_snapshot(
    database: Database, folder: Path | None, progress: Callable[[int, int], None] | None = None
) -> Snapshot:
    """Copy a store, as it is now, into a file beside it.

    Args:
        database: Of the store.
        folder: Where it is; None for one in memory.
        progress: Called with the pages done and the pages in all.

    Raises:
        KeyStoreUnavailableError: The copy cannot be written.
    """
    place = Path(tempfile.mkdtemp(prefix="keypost-")) if folder is None else folder
    made = Snapshot(place / COPY_NAME, database.sealer.copy_data_key())
    try:
        _make_file(made.path)
        database.copy_to(made.path, progress)
    except BaseException:
        made.close()
        raise
    return made


def _make_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        make_private(path)
    except OSError as error:
        raise KeyStoreUnavailableError(f"no copy can be made at {path.parent}: {error.strerror}") from error


def remove(copy: Path) -> None:
    """Remove a copy, if it is there."""
    for path in (copy, *side_files(copy)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_copies(folder: Path) -> None:
    """Remove what a crash left of copies beside a store: they may hold keys that are destroyed since."""
    for name in (COPY_NAME, RESTORING_NAME):
        remove(folder / name)
