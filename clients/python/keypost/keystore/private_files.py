"""Files that their owner alone can read, and how they come to be on the disk."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def make_private(path: Path) -> None:
    """Make a new, empty file; raises FileExistsError if it is there."""
    os.close(os.open(path, _NEW, 0o600))


@contextmanager
def new_private(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write, which is on the disk afterwards; raises FileExistsError if it is there."""
    with os.fdopen(os.open(path, _NEW, 0o600), "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the new name of a file on the disk too, where folders can be synchronised."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
