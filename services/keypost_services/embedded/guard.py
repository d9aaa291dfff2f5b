"""Ends the parts of a stack if the stack itself was killed and could not: no other process is left to do it.

The guard is a process that reads process ids from a pipe. It ends them if the pipe ends without a last word, on every
system. As a program (this file alone: it needs nothing installed) it is that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LAST_WORD = "done"
STOP_SECONDS = 10.0


class Guard:
    """The guard of one stack."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, in a group of its own: Ctrl-C is for the stack."""
        self._popen = subprocess.Popen(  # noqa: S603  # our own file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            process_group=0 if os.name == "posix" else None,
        )

    def add(self, pid: int) -> None:
        """Let it end this process too."""
        self._write(str(pid))

    def stop(self) -> None:
        """Let it go without ending anything; harmless if it never started."""
        self._write(LAST_WORD)
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.communicate(timeout=STOP_SECONDS)

    def _write(self, line: str) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            with contextlib.suppress(OSError):  # the guard was killed: the stack works without
                self._popen.stdin.write(f"{line}\n".encode())
                self._popen.stdin.flush()


def keep_watch(lines: Iterable[str]) -> None:
    """End the processes that ``lines`` name, in the reverse order, unless the last line is the last word."""
    pids = []
    for line in lines:
        if line.strip() == LAST_WORD:
            return
        pids.append(int(line))
    for pid in reversed(pids):
        with contextlib.suppress(OSError):  # it has ended already
            os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    keep_watch(sys.stdin)
