from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Up = tuple["subprocess.Popen[bytes]", dict[str, Any]]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with start(tmp_path) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.terminate()


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "keypost_services.embedded", "up", "--json", "--data", str(folder / "data")],
        env=clean_environment({}),
        stdout=subprocess.PIPE,
    )


def type_in(command: str) -> str:
    """Type a command as it is shown, in a shell."""
    done = subprocess.run(
        ["sh", "-c", command], env=clean_environment({}), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_that_it_shows_work_and_sigterm_leaves_nothing_running(up: Up) -> None:
    process, facts = up
    outputs = [type_in(command) for command in facts["commands"]]
    assert "You are alice/" in outputs[0]
    assert "You are bob/" in outputs[1]
    assert "Hello Bob" in outputs[3]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    for service in facts["services"]:
        with pytest.raises(ProcessLookupError):
            os.kill(service["process"], 0)


def test_a_second_start_finds_everybody_again(up: Up, tmp_path: Path) -> None:
    process, facts = up
    enroll_alice, enroll_bob, send, receive = facts["commands"]
    type_in(enroll_alice)
    type_in(enroll_bob)
    type_in(send)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with start(tmp_path) as again:
        try:
            assert again.stdout is not None
            again.stdout.readline()
            assert "Hello Bob" in type_in(receive)
        finally:
            again.terminate()


def test_a_service_that_dies_ends_it_with_the_tail_of_its_log(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        pid = next(service["process"] for service in facts["services"] if service["name"] == "directory")
        os.kill(pid, signal.SIGKILL)
        assert process.wait(30) == 1
    for service in facts["services"]:
        with pytest.raises(ProcessLookupError):
            os.kill(service["process"], 0)
