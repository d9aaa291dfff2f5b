"""OpenSSL signs an administrator's request by the command of docs/operations.md, and the CA knows who that is.

This wants OpenSSL 3 on the PATH, which the project does not bring: elsewhere it is skipped.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from keypost_services.ca.administration.certificate_request import make_request
from keypost_services.runtime.identity import Role, identity_of
from support.pages import ROOT, blocks, read

if TYPE_CHECKING:
    from pathlib import Path

(SIGNS,) = (
    block.text for block in blocks(read(ROOT / "docs" / "operations.md")) if block.text.startswith("openssl x509 -req ")
)
ROOT_OF_ITS_OWN = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=root -days 1 "
    "-keyout trial/service-root.key -out trial/service-root.pem"
)


def run(command: str, folder: Path) -> str:
    """Run a command in a folder, and return what it prints."""
    done = subprocess.run(
        shlex.split(command),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(autouse=True)
def _openssl_is_there(tmp_path: Path) -> None:
    if shutil.which("openssl") is None or not run("openssl version", tmp_path).startswith("OpenSSL 3"):
        pytest.skip("there is no OpenSSL 3")


def test_who_is_signed_is_known_as_who_asked(tmp_path: Path) -> None:
    make_request(tmp_path / "trial" / "ada", "example.org", "ada")
    run(ROOT_OF_ITS_OWN, tmp_path)
    run(SIGNS, tmp_path)
    identity = identity_of((tmp_path / "trial" / "ada" / "ada.pem").read_bytes(), "example.org")
    assert (identity.role, identity.name) == (Role.ADMINISTRATOR, "ada")
