"""What the programs of Keypost share."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN = ("keypost", "keypost_services")


def end_on_sigterm() -> None:
    """Have SIGTERM end this process at once, until it says otherwise, if it is process 1 of a container.

    Everywhere else it does so by itself. For process 1 the kernel drops the signal as long as nobody handles it, and
    whoever stops the container waits for nothing, and then kills.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


@contextmanager
def imports_to_keep() -> Iterator[None]:
    """Import in this block what a program is made of: it lives until the program ends, so nothing of it is collected.

    The collector would look through it again and again while it grows, and once more at the end: a third of the CPU
    time of ``keypost --help`` went there. It is for programs alone: whatever garbage there is then stays, too.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def needs_extra(program: str, extra: str) -> Iterator[None]:
    """Import a program's parts, or run it, in this block; if a library is missing, say what to install: exit code 1.

    Args:
        program: The program's name, such as ``keypost-ca``.
        extra: The extra of the package that brings its libraries, such as ``services``.

    Raises:
        SystemExit: A library is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OWN:
            raise  # a fault of ours, which no extra mends
        sentence = f"{program} needs the library {error.name}; install it with:  pip install 'keypost[{extra}]'"
        print(sentence, file=sys.stderr)  # noqa: T201  # for whoever started it
        raise SystemExit(1) from None
