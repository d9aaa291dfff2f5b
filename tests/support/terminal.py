"""A terminal as a newcomer uses it: one command after the other, in one folder, with what was exported before."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Self

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECONDS = 120
COLUMNS = "100"
PLAIN = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
"""Programs print as they do into a pipe, in lines of one length."""
VARIES = "…"
"""In an output that a page shows: one word that differs each time, such as a device id."""


class Terminal:
    """Runs commands by ``sh``, each lot in the folder and with the variables that the one before left.

    Args:
        folder: Where it opens.
        variables: What the reader has set before.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self._folder = str(folder)
        self._environment = clean_environment({**PLAIN, **(variables or {})})
        self._groups: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what was left running."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def run(self, commands: str) -> str:
        """Run commands and return what they print, on both outputs.

        Raises:
            AssertionError: one of them failed.
        """
        mark = "-- the state of the shell --"
        script = f"{commands}\necho; echo '{mark}'; pwd; env -0"
        with subprocess.Popen(
            ["sh", "-ec", script],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as shell:
            self._groups.append(shell.pid)
            output, _ = shell.communicate(timeout=SECONDS)
        shown, _, state = output.partition(f"\n{mark}\n")
        assert shell.returncode == 0, f"{commands}\nended with {shell.returncode}:\n{shown}"
        self._folder, _, variables = state.partition("\n")
        pairs = (variable.partition("=") for variable in variables.split("\0") if variable)
        self._environment = {name: value for name, _, value in pairs}
        return shown


def plain(output: str) -> str:
    """Return an output without spaces at the ends of lines and without empty lines around it."""
    return "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")


def is_as_shown(shown: str, real: str) -> bool:
    """Return whether an output is the one that a page shows; ``…`` stands for one word that differs each time."""
    pattern = r"[\w.:/+-]+".join(re.escape(part) for part in plain(shown).split(VARIES))
    return re.fullmatch(pattern, plain(real)) is not None
