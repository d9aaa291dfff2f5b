"""The command line on a terminal of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from support.command_line import User

PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Where `keypost` is found, as in an activated virtual environment."""


def command_of(user: User, *arguments: str) -> list[str]:
    options = ["--profile", str(user.profile), "--bundle", str(user.stack.layout.bundle)]
    return ["keypost", *options, *arguments]


def environment(**variables: str) -> dict[str, str]:
    inherited = {
        name: value for name, value in clean_environment({}).items() if name not in {"NO_COLOR", "FORCE_COLOR"}
    }
    own = {"PATH": PROGRAMS, "KEYPOST_PASSPHRASE": "secret", "TERM": "xterm-256color", "COLUMNS": "140"}
    return inherited | own | variables


def on_a_terminal(user: User, *arguments: str, answer: str = "", **variables: str) -> str:
    """Return what a command shows on a terminal of its own, where somebody may type an answer."""
    ours, theirs = pty.openpty()
    command = command_of(user, *arguments)
    stdin = theirs if answer else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=stdin, stdout=theirs, stderr=theirs, env=environment(**variables)) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # how Linux tells that nobody writes there any more
            pass
        assert process.wait(60) in {0, 1, 4, 5}
    os.close(ours)
    return shown.decode()
