"""Every overlay of ``deploy/kubernetes``, with every component: Kubernetes takes it, and it fits the code."""

from __future__ import annotations

import json
import shutil
import tomllib
from typing import TYPE_CHECKING

import pytest

from support.manifests.checks import CHECKS
from support.manifests.given import given_by_the_operator
from support.manifests.rendering import COMBINATIONS, COMPONENTS, OVERLAYS, TREE, rendered, resources_in, text_of
from support.manifests.resources import Manifests, Pod
from support.manifests.schemas import VERSIONS
from support.manifests.settings import environment_of, realm_of
from support.pages import ROOT, blocks, read

if TYPE_CHECKING:
    from pathlib import Path


def name_of(combination: tuple[str, tuple[str, ...]]) -> str:
    return "-".join([combination[0], *combination[1]])


@pytest.fixture(scope="module", params=COMBINATIONS, ids=name_of)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    overlay, components = request.param
    return Manifests(rendered(overlay, components))


@pytest.mark.parametrize("check", CHECKS)
def test_a_rendering_is_good(manifests: Manifests, check: str) -> None:
    assert CHECKS[check](manifests) == []


def test_the_tree_is_whole() -> None:
    assert OVERLAYS == ("dev", "production")
    assert COMPONENTS == ("cert-manager", "gateway-api", "monitoring", "reflection", "sign-in", "tracing", "wake-ups")
    assert len(VERSIONS) == 3
    assert all((TREE / "overlays" / name / "kustomization.yaml").exists() for name in OVERLAYS)


def test_a_rendering_has_all_services() -> None:
    for overlay in OVERLAYS:
        found = Manifests(rendered(overlay))
        assert {pod.name for pod in found.services} == {"keypost-ca", "keypost-directory", "keypost-delivery"}
        assert [pod.name for pod in found.pods if pod.kind == "Job"] == ["keypost-migrations"]


def test_production_has_three_replicas_on_different_machines_and_no_secrets() -> None:
    found = Manifests(rendered("production", COMPONENTS))
    assert [scaler["spec"]["minReplicas"] for scaler in found.of_kind("HorizontalPodAutoscaler")] == [3, 3, 3]
    assert [spread_of(pod, "kubernetes.io/hostname") for pod in found.services] == ["DoNotSchedule"] * 3
    assert found.of_kind("Secret") == []
    assert found.of_kind("StatefulSet") == []


def test_dev_has_its_stores() -> None:
    stores = [pod.name for pod in Manifests(rendered("dev")).pods if pod.kind == "StatefulSet"]
    assert stores == ["keypost-cache", "keypost-limits", "keypost-mailboxes", "keypost-postgres"]


def test_the_image_is_the_one_that_is_built() -> None:
    version = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["version"]
    for overlay in OVERLAYS:
        images = [
            container["image"]
            for pod in Manifests(rendered(overlay)).pods
            if pod.is_ours
            for container in pod.spec["containers"]
        ]
        assert images
        assert {*images} == {f"keypost:{version}"}, overlay
    assert f"`keypost:{version}` on your machine" in read(ROOT / "docs" / "kubernetes.md")


def test_a_changed_setting_replaces_the_pods() -> None:
    """Names end with a hash of what is in them: other settings, another name, new pods."""
    plain, reflecting = Manifests(rendered("production")), Manifests(rendered("production", ["reflection"]))
    for before, after in zip(plain.services, reflecting.services, strict=True):
        assert before.spec["containers"][0]["envFrom"] != after.spec["containers"][0]["envFrom"]


def test_an_overlay_as_the_page_shows_it_is_good(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "settings").mkdir(parents=True)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    first, second = [block.text for block in blocks(read(ROOT / "docs" / "kubernetes.md")) if block.language == "yaml"]
    (mine / "settings" / "kustomization.yaml").write_text(first)
    (mine / "kustomization.yaml").write_text(second)
    found = Manifests(resources_in(text_of(mine)))
    assert realm_of(found) == "chat.example.com"
    uris = [each["spec"]["uris"] for each in found.of_kind("Certificate") if "uris" in each["spec"]]
    assert uris == [[f"keypost://chat.example.com/service/{name}"] for name in ("ca", "delivery", "directory")]
    # Each alert leads to where the operator reads its page.
    (rule,) = found.of_kind("PrometheusRule")
    alerts = [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]
    urls = [one["annotations"]["runbook_url"] for one in alerts]
    assert {url.rpartition("/docs/runbook/")[0] for url in urls} == {"https://git.example.com/keypost/blob/main"}
    assert not [one for one in found.of_kind("ConfigMap") if one["metadata"]["name"].startswith("pages")]
    problems = {name: check(found) for name, check in CHECKS.items() if name != "flows"}
    assert [problem for each in problems.values() for problem in each] == []
    (ca,) = [pod for pod in found.services if pod.name == "keypost-ca"]
    assert environment_of(found, ca)["KEYPOST_CA_OIDC_ISSUER"] == "https://id.example.com/realms/main"
    # The addresses of the database and of the issuer are the page's, not the tree's.
    assert CHECKS["flows"](found) == [
        "not let through: ca -> issuer TCP 443",
        "not let through: ca -> sql TCP 5432",
        "not let through: migrations -> sql TCP 5432",
    ]


def test_the_page_asks_for_nothing_that_nobody_takes() -> None:
    text = json.dumps(rendered("production", COMPONENTS))
    assert [name for _, name in given_by_the_operator() if f'"{name}"' not in text] == []


def spread_of(pod: Pod, topology: str) -> str:
    (found,) = [each for each in pod.spec["topologySpreadConstraints"] if each["topologyKey"] == topology]
    return str(found["whenUnsatisfiable"])
