"""The Dockerfile keeps its promises: what can be read off it. The image itself is tested by ``make test-images``."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from support.manifests.rendering import rendered
from support.manifests.resources import Manifests
from support.pages import ROOT, read

TEXT = read(ROOT / "Dockerfile").replace("\\\n", " ")
STAGES = re.split(r"^(?=FROM )", TEXT, flags=re.MULTILINE)[1:]
BUILT_FROM = (
    *("clients/python", "services", "protos", "hatch_build.py", "pyproject.toml", "README.md", "NOTICE"),
    "deploy/image",
)


def test_both_stages_are_made_on_the_base_that_is_asked_for() -> None:
    assert [stage.split()[1] for stage in STAGES] == ["${BASE_IMAGE}", "${BASE_IMAGE}"]
    assert re.search(r"^ARG BASE_IMAGE=\S+$", TEXT, re.MULTILINE)


def test_nothing_is_installed_that_no_hash_vouches_for() -> None:
    installs = re.findall(r"pip[^&;]* install [^&;]*", TEXT)
    assert len(installs) == 2
    for install in installs:
        hashed = "--require-hashes" in install and "--only-binary :all:" in install
        ours = "--no-index" in install and "wheel/*.whl" in install
        assert "--no-deps" in install
        assert hashed or ours, install


def test_the_last_stage_installs_nothing_and_runs_as_the_manifests_say() -> None:
    last = STAGES[-1]
    assert "install" not in last.replace("strip.sh", "")
    (user,) = re.findall(r"^USER (\d+:\d+)$", last, re.MULTILINE)
    contexts = [pod.spec["securityContext"] for pod in Manifests(rendered("production")).pods if pod.is_ours]
    assert {f"{each['runAsUser']}:{each['runAsGroup']}" for each in contexts} == {user}
    assert re.search(r"^STOPSIGNAL SIGTERM$", last, re.MULTILINE)
    # The form without a shell: the service itself is process 1, and gets the signal.
    assert re.search(r'^CMD \["keypost-ca", "--help"\]$', last, re.MULTILINE)


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    rules = [line for line in read(ROOT / ".dockerignore").splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {*BUILT_FROM, "LICENSE*"}
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.MULTILINE) for word in line.split()[:-1]]
    assert {"NOTICE", "LICENSE*"} <= {*copied}, "the wheel has both, and so has whoever is given the image"
    for word in copied:
        assert any(
            word == rule or word.startswith(f"{rule}/") or fnmatch(word, rule) for rule in (*BUILT_FROM, "LICENSE*")
        )
