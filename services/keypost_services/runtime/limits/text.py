"""Limits as an operator writes them: ``look_ups=600/1m+20000/1d, Receive=none``."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from keypost.clock import DAY, HOUR, MINUTE, SECOND
from keypost_services.runtime.limits.ports import Quota
from keypost_services.runtime.limits.table import QUOTAS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost_services.runtime.limits.table import Quotas

NO_LIMIT = "none"
LONGEST_PERIOD = 30 * DAY
MOST = 1_000_000
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_QUOTA = re.compile(r"([0-9]{1,7})/([0-9]{1,7})([smhd])", re.ASCII)


def read_limits(text: str) -> Mapping[str, Quotas]:
    """Return the quotas that a text sets, by name.

    Args:
        text: ``NAME=QUOTAS`` with commas between. QUOTAS is ``none``, or ``MOST/PERIOD`` with ``+`` between; a period
            is a number with ``s``, ``m``, ``h`` or ``d``.

    Raises:
        ValueError: it is written otherwise, or there is no limit of this name.
    """
    limits: dict[str, Quotas] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, separator, quotas = (part.strip() for part in entry.partition("="))
        _check_name(name, entry, separator)
        if name in limits:
            raise ValueError(f"{name} stands there twice")
        limits[name] = () if quotas == NO_LIMIT else tuple(_read_quota(one.strip()) for one in quotas.split("+"))
    return limits


def write_quotas(quotas: Quotas) -> str:
    """Return quotas as an operator writes them."""
    return "+".join(f"{quota.most}/{_period(quota.period)}" for quota in quotas) or NO_LIMIT


def _period(milliseconds: int) -> str:
    unit = max((unit for unit, size in _UNITS.items() if milliseconds % size == 0), key=_UNITS.__getitem__)
    return f"{milliseconds // _UNITS[unit]}{unit}"


def _check_name(name: str, entry: str, separator: str) -> None:
    if not separator:
        raise ValueError(f"{entry!r} must be NAME=MOST/PERIOD, such as Receive=60/1m, or NAME={NO_LIMIT}")
    if name not in QUOTAS:
        close = difflib.get_close_matches(name, QUOTAS, n=1)
        raise ValueError(f"there is no limit {name!r}" + (f"; is it {close[0]}?" if close else ""))


def _read_quota(text: str) -> Quota:
    match = _QUOTA.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} must be MOST/PERIOD, such as 60/1m (s, m, h, d), or {NO_LIMIT}")
    most, period = int(match[1]), int(match[2]) * _UNITS[match[3]]
    if not 1 <= most <= MOST or not SECOND <= period <= LONGEST_PERIOD:
        raise ValueError(f"{text!r} must be 1 to {MOST} in 1 second to 30 days")
    return Quota(most, period)
