"""The previous landed version, as ``tests/upgrade`` stores it: its code, its data, and how to run processes of it."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

STORED = Path(__file__).parents[1] / "upgrade"
CODE = STORED / "previous.tar.xz"
DATA = STORED / "data.tar.xz"
NEWER_SETTINGS = ("HEALTH_LISTEN", "TRUSTED_PROXIES")
"""Settings of services, without their prefix, that the previous version has not: it refuses to start with them."""


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a stored archive and return the folder."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def python_path(code: Path | None) -> dict[str, str]:
    """Return the variable by which a process runs the unpacked code of a version; None: of this one.

    The libraries are this interpreter's; ``support`` is importable too.
    """
    return {"PYTHONPATH": os.pathsep.join([*([] if code is None else [str(code)]), *sys.path])}


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those settings of a service that the previous version knows, as its operator would give it."""
    return {name: value for name, value in environment.items() if not name.endswith(NEWER_SETTINGS)}


def python(*arguments: str) -> list[str]:
    """Return a command of this interpreter."""
    return [sys.executable, *arguments]
