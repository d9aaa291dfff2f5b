"""Whoever follows docs/kubernetes.md has made all that pods take."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from support.manifests.given import given_by_the_operator
from support.manifests.rendering import kubectl, rendered
from support.manifests.resources import Manifests
from support.manifests.schemas import VERSIONS
from support.pages import ROOT, blocks, read

if TYPE_CHECKING:
    from pathlib import Path

PAGE = read(ROOT / "docs" / "kubernetes.md")
LINES = [line for block in blocks(PAGE) if block.language == "console" for line in block.text.splitlines()]
CREATES = [line for line in LINES if re.match(r"kubectl --namespace keypost create (configmap|secret) ", line)]
MAY_BE_LEFT_OUT = {("ConfigMap", "keypost-store-roots")}


def made_by(command: str, folder: Path) -> tuple[tuple[str, str], set[str]]:
    """Run a command of the page on files that are there, and return kind, name and keys of what it makes."""
    program, *arguments = shlex.split(command)
    assert program == "kubectl"
    for name in re.findall(r"--from-file=(?:[\w.]+=)?(\S+)", command):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("something")
    done = subprocess.run(
        [str(kubectl()), *arguments, "--dry-run=client", "--output=yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    made = yaml.safe_load(done.stdout)
    assert made["metadata"]["namespace"] == "keypost"
    return (made["kind"], made["metadata"]["name"]), set(made["data"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], set[str]]:
    """What the page's commands make: the keys by kind and name."""
    folder = tmp_path_factory.mktemp("operator")
    return dict(made_by(command, folder) for command in CREATES)


def test_all_that_is_asked_for_is_made_by_a_command_or_by_cert_manager(
    made: dict[tuple[str, str], set[str]],
) -> None:
    certificates = Manifests(rendered("production", ["cert-manager"])).of_kind("Certificate")
    issued = {("Secret", one["spec"]["secretName"]) for one in certificates}
    asked = {each: keys for each, keys in given_by_the_operator().items() if each not in issued | MAY_BE_LEFT_OUT}
    assert made == asked


def test_dev_has_the_rest(made: dict[tuple[str, str], set[str]]) -> None:
    urls = {each for each, keys in made.items() if keys == {"url"}}
    # Names end with a hash of what is in them.
    generated = {one["metadata"]["name"].rpartition("-")[0] for one in Manifests(rendered("dev")).of_kind("Secret")}
    assert {name for _, name in urls} <= generated


def test_the_versions_are_those_that_manifests_are_checked_against() -> None:
    first, second, third = (version.rpartition(".")[0] for version in VERSIONS)
    assert f"Kubernetes {first}, {second} and {third}" in PAGE
