"""Where the local state of a device lies."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import platformdirs

from keypost.cli.errors import NoProfileError, UsageError
from keypost.keystore.copies import FILE_NAME

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
    return profiles_folder() / name


def profiles_folder() -> Path:
    """Return the folder of the profiles that have a plain name."""
    return platformdirs.user_data_path("keypost") / "profiles"


def profile_names() -> list[str]:
    """Return the profiles that have a plain name, sorted."""
    try:
        return sorted(path.name for path in profiles_folder().iterdir() if is_profile(path))
    except OSError:  # there is no such folder yet
        return []


def is_profile(path: Path) -> bool:
    """Return whether there is a profile at ``path``; one whose making was cut short is none."""
    try:
        return (path / FILE_NAME).stat().st_size > 0
    except OSError:
        return False


def no_profile(name: str) -> NoProfileError:
    """Return the error that there is no profile of that name, with the names that there are."""
    hint = f"Enroll first: keypost --profile {shlex.quote(name)} --bundle FILE enroll USERNAME"
    if others := profile_names():
        hint += f"; or choose one of yours by --profile: {', '.join(others)}"
    return NoProfileError(f"there is no profile {name} ({profile_path(name)})", hint, profile=name)


def looks_like_path(name: str) -> bool:
    """Return whether ``name`` is a path rather than a plain name."""
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return name.startswith((".", "~")) or any(separator in name for separator in separators)
