"""The previous landed version, as ``tests/upgrade`` stores it: its code, its data, and how to run processes of it."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

STORED = Path(__file__).parents[1] / "upgrade"
CODE = STORED / "previous.tar.xz"
DATA = STORED / "data.tar.xz"
TESTS = Path(__file__).parents[1]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a stored archive and return the folder."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def environment(code: Path | None, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that runs the unpacked code of a version; None: of this one.

    The libraries are this interpreter's; ``support`` is importable too.
    """
    paths = ([] if code is None else [str(code)]) + [str(TESTS)]
    return clean_environment({"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", **(variables or {})})


def python(*arguments: str) -> list[str]:
    """Return a command of this interpreter."""
    return [sys.executable, *arguments]
