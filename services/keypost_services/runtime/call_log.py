"""A line in the log for each call that has ended; of many that end alike, some (docs/adr/0032).

What every call comes to is in the metrics. Lines are for what is seldom: they are never left out, however many others
there are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

SLOW_SECONDS = 1.0
"""Calls that take so long, or longer, do not end like the others."""
_QUIET = "/grpc.health."


@dataclass
class _Alike:
    """Calls that end alike: since when so many of them have a line, and how many have none since the last line."""

    begun: float
    lines: int = 0
    left_out: int = 0


class CallLog:
    """Says how calls have ended.

    Args:
        log: The service's log.
        per_second: How many lines there may be a second for calls of one method that end alike.
        monotonic: The time, seconds.
    """

    def __init__(
        self, log: FilteringBoundLogger, per_second: int, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._per_second = per_second
        self._monotonic = monotonic
        self._alike: dict[tuple[str, str, str, bool], _Alike] = {}

    def unforeseen(self, error_id: str, error: Exception) -> None:
        """Write what nobody foresaw: every time, under the id that the caller was told."""
        self._log.error("unforeseen", error_id=error_id, exc_info=error)

    def ended(self, method: str, code: str, reason: str, seconds: float, *, is_recorded: bool = False) -> None:
        """Write the line of a call, or leave it out: the next one of its like says how many were.

        Args:
            method: Its full name, one of few.
            code: The name of the gRPC status.
            reason: ``ErrorInfo.reason``; empty: there is none.
            seconds: How long it took.
            is_recorded: It is part of a trace that leads here: then it has its line, whatever others there are.
        """
        now = self._monotonic()
        kind = (method, code, reason, seconds >= SLOW_SECONDS)
        alike = self._alike.get(kind)
        if alike is None or now - alike.begun >= 1:
            alike = self._alike[kind] = _Alike(now, left_out=alike.left_out if alike else 0)
        if alike.lines >= self._per_second and not is_recorded:
            alike.left_out += 1
            return
        facts = {"left_out": alike.left_out} if alike.left_out else {}
        alike.lines, alike.left_out = alike.lines + 1, 0
        say = self._log.debug if method.startswith(_QUIET) else self._log.info
        say("call", method=method, code=code, reason=reason, milliseconds=round(seconds * 1000, 1), **facts)
