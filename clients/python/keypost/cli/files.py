"""Files that arrive: their names come from somebody else, so nothing about them is trusted."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import BinaryIO

LONGEST_NAME = 120
RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$")
UNSAFE = re.compile(r'[<>:"|?*]')
MOST_ATTEMPTS = 10_000


def safe_name(name: str) -> str:
    """Return a file name without any folder, control character or meaning to a shell or to Windows.

    Never hidden (no leading dot), never empty, at most 120 characters; the ending is kept.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    printable = "".join("_" if unicodedata.category(letter)[0] in "CZ" and letter != " " else letter for letter in last)
    cleaned = UNSAFE.sub("_", printable).strip(" .-")
    if RESERVED.match(cleaned):
        cleaned = f"_{cleaned}"
    return _shortened(cleaned) or "file"


def _shortened(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    suffix = Path(name).suffix[:20]
    return name[: LONGEST_NAME - len(suffix)] + suffix


def create_new(folder: Path, name: str) -> tuple[Path, BinaryIO]:
    """Create a file for ``name`` in ``folder`` and return its path with the open file; never overwrites.

    Raises:
        FileExistsError: ten thousand files of that name are there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = Path(safe_name(name))
    for number in range(MOST_ATTEMPTS):
        numbered = wanted.name if number == 0 else f"{wanted.stem} ({number}){wanted.suffix}"
        try:
            return folder / numbered, (folder / numbered).open("xb")
        except FileExistsError:
            continue
    raise FileExistsError(f"too many files named {wanted.name} in {folder}")
