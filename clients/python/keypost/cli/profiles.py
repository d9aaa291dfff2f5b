"""Where the local state of a device lies."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from keypost.cli.exit_codes import UsageError

DEFAULT_PROFILE = "default"


def profile_path(name: str) -> Path:
    """Return the profile that ``name`` means: a path if it looks like one, else a name below the user's data folder.

    Raises:
        UsageError: the name is empty.
    """
    if not name.strip():
        raise UsageError("--profile needs a name or a path")
    if looks_like_path(name):
        return Path(name).expanduser()
    return platformdirs.user_data_path("keypost") / "profiles" / name


def looks_like_path(name: str) -> bool:
    """Return whether ``name`` is a path rather than a plain name."""
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return name.startswith((".", "~")) or any(separator in name for separator in separators)
