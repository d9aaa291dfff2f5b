"""Text from somebody else, made harmless for a terminal."""

from __future__ import annotations

import unicodedata


def harmless(text: str) -> str:
    """Return ``text`` with control and direction-changing characters replaced, and every further line indented.

    Otherwise a message could move the cursor, hide what stands above it, or look like a line of another sender.
    """
    return "\n    ".join("".join(map(_harmless_letter, line)) for line in text.splitlines())


def _harmless_letter(letter: str) -> str:
    if letter == "\t":
        return "    "
    return "�" if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and letter != "‍" else letter


def size_of(count: int) -> str:
    """Return ``count`` bytes for people, such as ``3.0 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":  # noqa: PLR2004  # 1024 bytes make a KiB
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
