"""Settings that are secret may be given as the name of a file: ``KEYPOST_CA_LIMITS_URL_FILE`` for ``…_LIMITS_URL``.

A variable shows in ``docker inspect`` and in what supervisors log; a file has an owner.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.config import JsonDict
    from pydantic.fields import FieldInfo

OR_IN_FILE: JsonDict = {"or_in_file": True}
"""As ``json_schema_extra`` of a setting: it may be in a file."""
LONGEST = 64 * 1024


def may_be_in_file(field: FieldInfo) -> bool:
    """Return whether a setting may be given as a file."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("or_in_file") is True


def file_variable(variable: str) -> str:
    """Return the variable that names the file with what ``variable`` would have."""
    return f"{variable}_FILE"


def read_from_files(variables: Iterable[str]) -> dict[str, str]:
    """Return the settings that are given as files: their first lines, by variable.

    Raises:
        ValueError: a file cannot be read or is too long (64 KiB), or the setting is given both ways.
    """
    found = {}
    for variable in variables:
        name = file_variable(variable)
        if not (path := os.environ.get(name)):
            continue
        if os.environ.get(variable):
            raise ValueError(f"{name}: {variable} is set as well; set one of the two")
        found[variable] = _first_line(name, path)
    return found


def _first_line(name: str, path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{name}: cannot read {path}: {why}") from None
    if len(text) > LONGEST:
        raise ValueError(f"{name}: {path} is longer than {LONGEST} characters")
    return text.partition("\n")[0].strip()
