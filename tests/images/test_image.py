"""The image alone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.images.composed import composition
from support.images.parts import BASE, IMAGE, REVISION, VERSION
from support.locks import KEYPOST, locked
from support.manifests.rendering import rendered
from support.manifests.resources import Manifests
from support.pages import read

if TYPE_CHECKING:
    from pathlib import Path

    from support.images.engine import Engine

HARDENED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
TOOLS = ("cc", "gcc", "c++", "clang", "ld", "as", "make", "pip", "pip3", "wheel", "easy_install", "uv")
MODULES = ("pip", "setuptools", "wheel", "ensurepip", "pkg_resources")
INSTALLED = """
import json, re
from importlib.metadata import distributions
print(json.dumps({re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in distributions()}))
"""
HANGS = "import sys, threading\nprint('importing', flush=True)\nthreading.Event().wait()\n"
GRACE = 20.0


def run(engine: Engine, *command: str, check: bool = True) -> str:
    """Run a command in the image, as hardened as it goes; return what it says."""
    done = engine.podman("run", "--rm", *HARDENED, "--network", "none", IMAGE, *command, check=check)
    return done.stdout


@pytest.fixture(scope="session")
def config(image: Engine) -> dict[str, Any]:
    (inspected,) = json.loads(image.podman("image", "inspect", IMAGE).stdout)
    return dict(inspected["Config"])


def test_it_says_what_it_is_and_how_it_is_run(config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert not config.get("Entrypoint")
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels["version"] == VERSION
    assert labels["revision"] == REVISION
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == BASE


def test_there_is_nothing_that_compiles_or_installs(image: Engine) -> None:
    script = f"for name in {' '.join(TOOLS)}; do command -v $name; done; for python in python3 /usr/bin/python3; do "
    script += "".join(f"$python -c 'import {name}' 2>/dev/null && echo $python {name}; " for name in MODULES)
    assert run(image, "sh", "-c", f"{script} done; echo looked") == "looked\n"


def test_nothing_of_the_build_is_left(image: Engine) -> None:
    assert (
        run(image, "sh", "-c", "ls -d /build /etc/pip.conf /run/secrets/* /mnt/* 2>/dev/null; echo looked")
        == "looked\n"
    )


def test_nothing_can_be_written(image: Engine) -> None:
    places = "/ /tmp /var/tmp /run /opt/keypost /provision/ca /dev"
    script = f"for place in {places}; do touch $place/x 2>/dev/null && echo $place; done; id -u; id -g"
    assert run(image, "sh", "-c", script) == "10001\n10001\n"


def commands() -> list[list[str]]:
    """Return every command that manifests and compose.yaml run in the image, without what follows its own name."""
    pods = [pod for overlay in ("dev", "production") for pod in Manifests(rendered(overlay)).pods if pod.is_ours]
    found = [pod.spec["containers"][0]["command"] for pod in pods]
    services = composition()["services"].values()
    found += [each["command"] for each in services if "KEYPOST_IMAGE" in each["image"]]
    # `python3 -m module`, `keypost-ca serve`.
    heads = {tuple(words[: 3 if words[0] == "python3" else 2]) for words in found}
    return [list(head) for head in sorted(heads)]


def test_every_command_of_the_manifests_and_of_compose_is_there(image: Engine) -> None:
    heads = commands()
    assert len(heads) == 5, "three services, migrations, provision"
    script = " && ".join(f"{' '.join(head)} --help >/dev/null && echo {head[0]} {head[-1]}" for head in heads)
    assert run(image, "sh", "-c", script).splitlines() == [f"{head[0]} {head[-1]}" for head in heads]


def test_its_bill_of_materials_is_what_it_has_and_that_is_what_is_locked(image: Engine) -> None:
    installed = json.loads(run(image, "/opt/keypost/bin/python", "-c", INSTALLED))
    bill = json.loads(run(image, "cat", "/opt/keypost/share/sbom.cdx.json"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"]) == ("keypost", VERSION)
    listed = {
        each["purl"].removeprefix("pkg:pypi/").partition("@")[0]: each["version"]
        for each in bill["components"]
        if "purl" in each
    }
    assert listed | {"keypost": VERSION} == installed
    lock = {each.name: each.version for each in locked(read(KEYPOST)).values()}
    assert {name: version for name, version in installed.items() if name != "keypost"}.items() <= lock.items()


def test_process_1_ends_on_sigterm_while_it_is_still_importing(image: Engine, tmp_path: Path) -> None:
    # A library that never comes: the kernel would drop the signal, and the container be killed after its grace.
    (tmp_path / "typer").mkdir()
    (tmp_path / "typer" / "__init__.py").write_text(HANGS)
    for path in (tmp_path, tmp_path / "typer", tmp_path / "typer" / "__init__.py"):
        path.chmod(0o755)
    name = "keypost-test-importing"
    hang = ("--env", "PYTHONPATH=/hang", "--volume", f"{tmp_path}:/hang:ro")
    image.podman(
        "run", "--detach", "--name", name, *HARDENED, "--network", "none", *hang, IMAGE, "keypost-directory", "serve"
    )
    deadline = time.monotonic() + 60
    while "importing" not in image.podman("logs", name).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun = time.monotonic()
    image.podman("stop", "--time", str(int(GRACE)), name)
    assert time.monotonic() - begun < GRACE / 2
    (inspected,) = json.loads(image.podman("inspect", name).stdout)
    image.podman("rm", name)
    assert inspected["State"]["ExitCode"] == 128 + 15
