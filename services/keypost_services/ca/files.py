"""Small files of the CA and of those who run it: written whole and for their owner alone, read within a bound."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_private(file: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; raises FileExistsError if it is there."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def replace_private(file: Path, content: bytes) -> None:
    """Write a file in one piece, readable by its owner alone: whoever reads it meanwhile reads the old one."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    write_private(partial, content)
    partial.replace(file)
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_small(file: Path, most: int) -> bytes:
    """Return the content of a file.

    Args:
        file: The file.
        most: How many bytes it may have.

    Raises:
        OSError: it cannot be read, or has more.
    """
    with file.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(file))
    return content
