"""Child processes of the embedded stack: started, watched, stopped, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from keypost.errors import KeypostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

POLL_SECONDS = 0.02
TAIL_LINES = 15
LONGEST_SOCKET_PATH = 100
"""Bytes; systems allow 104 to 108."""


class StackFailedError(KeypostError):
    """A part of the embedded stack did not start, or died; the message has the tail of its log."""

    reason = "STACK_FAILED"


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without ``KEYPOST_*``, so that no stray setting leaks in, plus ``extra``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEYPOST_")}
    return inherited | {"PYTHONUNBUFFERED": "1"} | dict(extra)


class Process:
    """One child process whose output goes to a log file.

    Args:
        name: What to call it in messages.
        command: The program and its arguments.
        log: The file that its output is appended to.
        environment: Variables to set; it inherits no other ``KEYPOST_*`` ones.
        stop_signal: What asks it to end.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._command = list(command)
        self._environment = environment or {}
        self._popen: subprocess.Popen[bytes] | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """The id of the process; 0 before the start."""
        return self._popen.pid if self._popen else 0

    def start(self) -> None:
        """Start the process, in a group of its own: Ctrl-C is for the parent, which then stops all in order."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603  # our own commands
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(self._environment),
                process_group=0 if os.name == "posix" else None,
            )

    def watch(self, died: Callable[[Process], None]) -> None:
        """Call ``died`` from a thread if the process ends without having been asked to."""
        threading.Thread(target=self._watch, args=(died,), name=f"watch {self.name}", daemon=True).start()

    def _watch(self, died: Callable[[Process], None]) -> None:
        if self._popen is not None:
            self._popen.wait()
            if not self._stopping:
                died(self)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when ``ready`` says so.

        Raises:
            StackFailedError: the process ended first, or is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.is_running():
                raise StackFailedError(self.obituary())
            if time.monotonic() > deadline:
                raise StackFailedError(
                    f"{self.name} is not ready after {seconds:.0f} s; its log ends with:\n{self.tail()}"
                )
            time.sleep(POLL_SECONDS)

    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self._popen is not None and self._popen.poll() is None

    def obituary(self) -> str:
        """Return a sentence that says how the process ended, with the tail of its log."""
        code = self._popen.poll() if self._popen else None
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return f"{self.name} {how}; its log {self.log} ends with:\n{self.tail()}"

    def tail(self) -> str:
        """Return the last lines of the log, indented."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line[:500]}" for line in lines[-TAIL_LINES:]) or "  (nothing)"

    def ask_to_stop(self) -> None:
        """Ask the process to end; ``wait_stopped`` waits for it."""
        self._stopping = True
        if self._popen is not None and self.is_running():
            self._popen.send_signal(self._stop_signal)

    def wait_stopped(self, seconds: float) -> bool:
        """Return whether the process ended by itself in time; if not it is killed."""
        if self._popen is None:
            return True
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
            return False
        return True
