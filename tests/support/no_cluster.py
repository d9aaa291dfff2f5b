"""``kubectl`` of a reader who has no cluster: it makes and renders what it can, and of the rest it reads the words.

    PYTHONPATH=tests python -m support.no_cluster ARGUMENTS

The real one does the work. What is created is made here and shown, what is applied is rendered. Everything else is
asked of an address where nobody answers: it fails before that if the words are wrong.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

from support.manifests.rendering import kubectl

NOBODY = "--server=http://127.0.0.1:1"
ROOT_SECRET = "keypost-public-root"
PUBLIC_ROOT = Path(".keypost/tls/public-root.pem")


def put_on_the_path(folder: Path) -> str:
    """Write a program ``kubectl`` into a folder, and return the ``PATH`` that finds it first."""
    program = folder / "kubectl"
    tests = Path(__file__).parents[1]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={tests} exec {sys.executable} -m support.no_cluster "$@"\n')
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def main(arguments: list[str]) -> int:
    """Do what ``kubectl`` would, as far as nobody has to be asked, and return how it ended."""
    words = [word for word in arguments if not word.startswith("-") and word != "keypost"]
    if words[0] == "create":
        return _real([*arguments, "--dry-run=client", "--output=yaml"])
    if words[0] == "apply" and "-k" in arguments:
        return _real(["kustomize", arguments[arguments.index("-k") + 1]])
    return _asked(arguments, words)


def _real(arguments: list[str]) -> int:
    return subprocess.run([str(kubectl()), *arguments], check=False, timeout=60).returncode


def _asked(arguments: list[str], words: list[str]) -> int:
    command = [str(kubectl()), NOBODY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "refused" not in done.stderr:
        sys.stderr.write(done.stderr)
        return 1
    if words[0] == "get" and ROOT_SECRET in words:
        sys.stdout.write(base64.b64encode(PUBLIC_ROOT.read_bytes()).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
