"""One stack at a time in a folder; the lock ends with the process, however that ends."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from keypost_services.embedded.processes import StartFailed

if TYPE_CHECKING:
    from pathlib import Path


class FolderLock:
    """A lock on a folder: an SQLite file that one connection holds, which works the same on every system.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: sqlite3.Connection | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StartFailed: another process has it.
        """
        if self._held is not None:
            return
        connection = sqlite3.connect(self._folder / "lock", timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            raise StartFailed(f"another stack runs in {self._folder}: end it, or choose another folder") from error
        self._held = connection

    def release(self) -> None:
        """Give the lock back, if it is held."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
