from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.guard import Guard, keep_watch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_a_pipe_that_just_ends_ends_the_processes(sleeper: subprocess.Popen[bytes]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    keep_watch([f"{sleeper.pid}\n", f"{gone.pid}\n"])
    assert sleeper.wait(10) == -signal.SIGTERM


def test_after_the_last_word_they_live(sleeper: subprocess.Popen[bytes]) -> None:
    guard = Guard()
    guard.start()
    guard.add(sleeper.pid)
    guard.stop()
    guard.stop()
    assert sleeper.poll() is None


def test_a_guard_that_was_killed_disturbs_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    guard = Guard()
    guard.start()
    assert guard._popen is not None
    guard._popen.kill()
    guard._popen.wait()
    guard.add(sleeper.pid)
    guard.stop()
    assert sleeper.poll() is None
