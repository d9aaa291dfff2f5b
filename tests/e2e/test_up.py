from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 120
"""Seconds: generous, for machines under load."""


def command_up(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "keypost_services.embedded", "up", "--data", str(folder / "data"), *options]


@contextlib.contextmanager
def start(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    command = command_up(folder, *options)
    with subprocess.Popen(command, env=clean_environment({}), stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()  # a test that failed leaves it behind


def type_in(*commands: str) -> str:
    """Type commands as they are shown, in a shell."""
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def assert_gone(facts: dict[str, Any]) -> None:
    for service in facts["services"]:
        with pytest.raises(ProcessLookupError):
            os.kill(service["process"], 0)


@pytest.mark.parametrize("stack", ["embedded", "cluster"])
def test_what_it_says_to_type_works_also_after_it_was_ended_and_killed(open_folder: Path, stack: str) -> None:
    folder = open_folder / stack
    with start(folder, "--json", "--stack", stack) as process:
        facts = first_line(process)
        export, enroll_alice, enroll_bob, send, receive = facts["commands"]
        shown = type_in(export, enroll_alice, enroll_bob, send)
        for words in ("You are alice/", "You are bob/", "Sent to bob"):
            assert words in shown
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert_gone(facts)
    with start(folder, "--json", "--stack", stack) as killed:
        facts = first_line(killed)
        killed.kill()
    wait_until_gone(facts)
    with start(folder, "--json", "--stack", stack) as again:
        facts = first_line(again)
        assert "Hello Bob" in type_in(export, receive), "and nothing was in the way of this start"
        again.send_signal(signal.SIGTERM)
        assert again.wait(PATIENCE) == 0
    assert_gone(facts)


def wait_until_gone(facts: dict[str, Any]) -> None:
    """Return when the parts of a stack that was killed have ended as well."""
    deadline = time.monotonic() + PATIENCE
    pids = [service["process"] for service in facts["services"]]
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "they stayed behind"
        time.sleep(0.05)


def test_a_background_job_of_a_script_ends_when_it_is_told_to(tmp_path: Path) -> None:
    # Such a job inherits from its shell that SIGINT is ignored.
    script = '"$@" & echo $! >"$PID_FILE"; wait $!'
    command, variables = (
        ["sh", "-c", script, "sh", *command_up(tmp_path, "--json")],
        {"PID_FILE": str(tmp_path / "pid")},
    )
    with subprocess.Popen(command, env=clean_environment(variables), stdout=subprocess.PIPE) as shell:
        facts = first_line(shell)
        job = int((tmp_path / "pid").read_text())
        try:
            os.kill(job, signal.SIGTERM)
            assert shell.wait(PATIENCE) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job, signal.SIGKILL)  # one that did not listen
    assert_gone(facts)


def test_a_service_that_dies_ends_it(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        shown: list[str] = []
        while not shown or "Ctrl-C" not in shown[-1]:
            shown.append(process.stdout.readline().decode())
        pids = {line.split()[0]: int(line.split()[2]) for line in shown if " process " in line}
        assert set(pids) == {"valkey", "ca", "directory", "delivery"}
        os.kill(pids["directory"], signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def is_running(pid: int) -> bool:
    """Whether a process that is nobody's child here runs; one that waits for a negligent parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
