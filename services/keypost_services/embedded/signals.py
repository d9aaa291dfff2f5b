"""Being asked to stop: SIGTERM and the end of a terminal mean what Ctrl-C means."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C, as long as the context lasts."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    # A script's background job inherits SIGINT ignored: what is raised below would then mean nothing.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals_ignored() -> Iterator[None]:
    """Let nothing interrupt what must come to its end: the shutdown has deadlines of its own."""
    numbers = [getattr(signal, name) for name in (*NAMES, "SIGINT") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    # Not KeyboardInterrupt itself: an event loop has its own way with SIGINT, and ends its tasks in good order.
    signal.raise_signal(signal.SIGINT)
