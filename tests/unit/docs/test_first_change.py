"""The first change of CONTRIBUTING.md is one: its test fails without it, and passes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.measured import CHILDREN
from support.pages import ROOT, blocks, read

PAGE = blocks(read(ROOT / "CONTRIBUTING.md"))
DIFFS = [block.text for block in PAGE if block.language == "diff"]
PACKAGE = Path("services/keypost_services")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what the change is about, without it: whoever has made it runs this test too."""
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE)
    shutil.copytree(ROOT / "tests/unit/ca", tmp_path / "tests/unit/ca")
    for diff in DIFFS:
        if apply(tmp_path, diff, "--check", "--reverse"):
            assert apply(tmp_path, diff, "--reverse")
    return tmp_path


def apply(folder: Path, diff: str, *options: str) -> bool:
    """Do what step 2 or 3 says, and return whether it could be done."""
    done = subprocess.run(["git", "apply", *options, "-"], cwd=folder, input=diff, text=True, check=False, timeout=60)
    return done.returncode == 0


def run_the_test(folder: Path) -> str:
    """Run the page's command, and return what it prints."""
    (command,) = (block.text for block in PAGE if "pytest tests/unit/ca" in block.text)
    program, *arguments = command.split()
    assert program == ".venv/bin/python"
    paths = os.pathsep.join(map(str, (folder / "services", ROOT / "tests")))
    # It runs a copy of the code, and not with options of whoever runs this.
    unmeasured = {name: value for name, value in os.environ.items() if name != CHILDREN}
    done = subprocess.run(
        [sys.executable, *arguments, f"--rootdir={folder}", "--override-ini=addopts=--import-mode=importlib"],
        cwd=folder,
        env=unmeasured | {"PYTHONPATH": paths, "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return done.stdout


def test_its_test_fails_without_it_and_passes_with_it(clone: Path) -> None:
    test, change = DIFFS
    assert apply(clone, test)
    without = run_the_test(clone)
    assert "1 failed" in without, without
    assert "'2w' is no duration" in without
    assert apply(clone, change)
    assert " passed" in (with_it := run_the_test(clone)), with_it
    assert "failed" not in with_it
