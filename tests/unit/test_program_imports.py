"""What the programs do without until a command needs it: libraries that are slow to import, while somebody waits."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = """
import contextlib, io, sys
from keypost_services.ca.__main__ import main as ca
from keypost_services.delivery.__main__ import main as delivery
from keypost_services.directory.__main__ import main as directory

def run(program, *arguments):
    sys.argv = ["program", *arguments]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            program()
        except SystemExit as end:
            return end.code

def say(codes, *more):
    slow = ["aiohttp", "alembic", "redis", "sqlalchemy", "keypost_services.runtime.serving", *more]
    print(codes, [name for name in slow if name in sys.modules])

realm = ["--realm-folder", "realm"]
ends = ["--ca", "ca:1", "--directory", "directory:1", "--delivery", "delivery:1", "--tls-roots", "roots.pem"]
say([
    run(ca, "--help"),
    run(ca, "init", "realm", "--realm", "example.org", "--no-passphrase"),
    run(ca, "root", "new", "next.key", "--no-passphrase"),
    run(ca, "record-key", "new", *realm),
    run(ca, "trust", "draft", "draft.json", *realm, "--add-root-key", "next.pem"),
    run(ca, "root", "sign", "draft.json", "signed.json", "--root-key", "realm/root.key", "--yes"),
    run(ca, "trust", "install", "signed.json", *realm),
    run(ca, "trust", "show", *realm),
    run(ca, "bundle", *realm, *ends),
    run(ca, "admin", "request", "carol", "--realm", "example.org", "--folder", "."),
    run(ca, "admin", "audit", "list", "--help"),
    run(ca, "migrate", "--help"),
    run(directory, "--help"),
    run(delivery, "--help"),
], "pydantic_settings")
say([run(program, "serve", "--help") for program in (ca, directory, delivery)])
sys.modules["sqlalchemy"] = None
print(run(ca, "migrate", "--database", "sqlite:///ca.db"))
del sys.modules["sqlalchemy"]
from keypost_services.ca.compose import compose
print([name for name in ["aiohttp", "redis", "opentelemetry.sdk"] if name in sys.modules])
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Many commands in one process: to start one takes a second."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "roots.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    command = [sys.executable, "-c", COMMANDS]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_commands_on_files_and_help_texts_do_without_what_serves(done: subprocess.CompletedProcess[str]) -> None:
    assert done.stdout.splitlines()[:2] == [f"{[0] * 14} []", f"{[0] * 3} []"], done.stderr


def test_a_library_that_a_command_misses_ends_with_what_to_install(done: subprocess.CompletedProcess[str]) -> None:
    assert done.stdout.splitlines()[2:3] == ["1"], done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("keypost-ca needs the library sqlalchemy")
    assert line.endswith("install it with:  pip install 'keypost[services]'")


def test_a_ca_without_issuer_and_limits_server_does_without_their_clients(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert done.stdout.splitlines()[3:] == ["[]"], done.stderr
