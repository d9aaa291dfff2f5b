"""What the README says to type works as it is printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.processes import clean_environment
from keypost_services.embedded.up import PASSPHRASE, commands_to_type

if TYPE_CHECKING:
    from keypost_services.embedded.stack import Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, having: str) -> str:
    """Return the one fenced block of a language that has these words."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if having in text]
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def clone(stack: Stack, tmp_path: Path) -> Path:
    """A folder as a newcomer has it: with `.venv`, and `.keypost` of a stack that is up."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".keypost").symlink_to(stack.layout.folder)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=clean_environment({}), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_sdk_and_the_cli_work_as_printed_one_after_the_other(clone: Path) -> None:
    (clone / "hello.py").write_text(block("python", "Client.open"))
    assert re.fullmatch(r"alice/[a-z2-7]{16} says hello\n", run(clone, ".venv/bin/python", "hello.py"))
    shown = run(clone, "sh", "-ec", block("console", "keypost --profile"))
    for words in ("You are alice/", "You are bob/", "hello", "from a pipe"):
        assert words in shown
    devices = json.loads(shown.splitlines()[-1])["rows"]
    assert sorted(row["state"] for row in devices) == ["good", "superseded"]
    assert "alice" in run(clone, ".venv/bin/python", "hello.py"), "again, with a key that was renewed"


def test_it_uses_what_up_says_to_type(stack: Stack) -> None:
    typed = block("console", "keypost --profile")
    assert f"KEYPOST_PASSPHRASE={PASSPHRASE}" in typed
    assert f'Passphrase("{PASSPHRASE}")' in README
    for name in ("alice", "bob"):
        profile = f"profiles/{name} enroll {name}"
        assert f".keypost/{profile}" in typed
        assert any(f"/{profile}" in command for command in commands_to_type(stack.layout, "RSA3072_AES256"))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z]+)", README))))
def test_what_it_says_to_make_can_be_made(target: str) -> None:
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
