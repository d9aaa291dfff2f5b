"""Durations as people write them: ``30s``, ``90m``, ``12h``, ``60d``."""

from __future__ import annotations

import re

from keypost.clock import DAY, HOUR, MINUTE, SECOND

_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_FORM = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)


def parse_duration(text: str) -> int:
    """Return a duration in milliseconds.

    Raises:
        ValueError: The text is none.
    """
    if (match := _FORM.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is no duration such as 30s, 90m, 12h or 60d")
    return int(match[1]) * _UNITS[match[2]]
