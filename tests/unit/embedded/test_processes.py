from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.processes import Process, StackFailedError, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


def python(tmp_path: Path, code: str, **environment: str) -> Process:
    return Process("part", [sys.executable, "-c", code], tmp_path / "part.log", environment)


def test_a_stray_setting_does_not_reach_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPOST_CA_SIGN_IN", "open")
    environment = clean_environment({"KEYPOST_CA_REALM": "example.org"})
    assert "KEYPOST_CA_SIGN_IN" not in environment
    assert environment["KEYPOST_CA_REALM"] == "example.org"


def test_a_process_that_ends_before_it_is_ready_is_told_with_its_log(tmp_path: Path) -> None:
    process = python(tmp_path, "print('the port is taken'); raise SystemExit(3)")
    process.start()
    with pytest.raises(StackFailedError, match=r"exit code 3(.|\n)*the port is taken"):
        process.wait_until(lambda: False, 10)


def test_a_process_that_is_never_ready_is_told(tmp_path: Path) -> None:
    process = python(tmp_path, "import time; time.sleep(60)")
    process.start()
    try:
        with pytest.raises(StackFailedError, match="not ready"):
            process.wait_until(lambda: False, 0.1)
    finally:
        process.ask_to_stop()
        assert process.wait_stopped(10)


def test_a_death_is_noticed_but_not_a_stop(tmp_path: Path) -> None:
    noticed: list[str] = []
    died = threading.Event()

    def note(process: Process) -> None:
        noticed.append(process.obituary())
        died.set()

    stopped = python(tmp_path, "import time; time.sleep(60)")
    stopped.start()
    stopped.watch(note)
    stopped.ask_to_stop()
    assert stopped.wait_stopped(10)
    dead = python(tmp_path, "raise SystemExit(7)")
    dead.start()
    dead.watch(note)
    assert died.wait(10)
    assert [sentence.split(";")[0] for sentence in noticed] == ["part ended with exit code 7"]


def test_what_does_not_stop_is_killed(tmp_path: Path) -> None:
    process = python(tmp_path, STUBBORN)
    process.start()
    process.wait_until(lambda: "deaf" in process.tail(), 10)
    process.ask_to_stop()
    assert not process.wait_stopped(0.1)
    assert not process.is_running()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
