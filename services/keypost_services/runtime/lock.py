"""A lock that one process at a time holds, and that ends with the process, however that ends."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LockHeldError(Exception):
    """Another process holds the lock."""


class FileLock:
    """A lock on a file of its own.

    It is SQLite's own lock, on an empty database: the operating system drops it with the process, on every platform.

    Args:
        path: The file; it is made when the lock is first taken, readable by its owner alone, and stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: sqlite3.Connection | None = None

    def acquire(self) -> None:
        """Take the lock at once; harmless when this object holds it already.

        Raises:
            LockHeldError: Another process has it, or another object.
            OSError: The file cannot be made.
        """
        if self._held is not None:
            return
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            raise LockHeldError(f"another process holds {self._path}") from error
        self._held = connection

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
