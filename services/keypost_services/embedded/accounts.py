"""As whom a program runs that refuses to run as root."""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost_services.embedded.processes import StackFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("postgres", "nobody")
"""The first of these that there is."""
_READ_AND_ENTER = 0o005
_BECOME = (
    "import os, sys; _, uid, gid, *command = sys.argv; "
    "os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid)); os.execv(command[0], command)"
)


@dataclass(frozen=True)
class Account:
    """An account of the operating system that is not the one who starts a program."""

    uid: int
    gid: int

    def running(self, command: Sequence[str]) -> list[str]:
        """Return the command that becomes it and then runs ``command``, as the same process.

        Not by the arguments of ``subprocess`` for this: with those it forks, and gRPC's hooks abort a forked child.
        """
        return [sys.executable, "-I", "-S", "-c", _BECOME, str(self.uid), str(self.gid), *command]


def account_to_run_as() -> Account | None:
    """Return as whom a program must run that refuses root; None: as who starts it.

    Raises:
        StackFailedError: Root starts it, and there is no other account.
    """
    if os.geteuid() != 0:
        return None
    for name in NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise StackFailedError(f"PostgreSQL does not run as root, and there is no account {' or '.join(NAMES)}")


def is_reachable(path: Path) -> bool:
    """Return whether every account can get at a file or folder."""
    return all(each.stat().st_mode & _READ_AND_ENTER == _READ_AND_ENTER for each in (path, *path.parents))
