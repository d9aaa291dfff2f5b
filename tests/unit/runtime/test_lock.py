from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keypost_services.runtime.lock import FileLock, LockHeldError

if TYPE_CHECKING:
    from pathlib import Path

HOLD = (
    "import sys, pathlib; from keypost_services.runtime.lock import FileLock; "
    "FileLock(pathlib.Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()"
)


def test_one_holds_it_and_gives_it_back(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    first.acquire()
    with pytest.raises(LockHeldError):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_it_ends_with_the_process_however_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockHeldError):
            FileLock(path).acquire()
        holder.kill()
    lock = FileLock(path)
    lock.acquire()
    lock.release()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    lock.release()
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FileLock(tmp_path / "nowhere" / "lock").acquire()
