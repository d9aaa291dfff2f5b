"""compose.yaml fits the code, the image and the manifests; ``make test-images`` runs it."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from keypost_services.embedded.provision import PARTS
from keypost_services.runtime.config import describe_settings, load_settings
from keypost_services.runtime.process import LAST_SECONDS
from keypost_services.runtime.serving import SETTLE_SECONDS
from support.images.composed import composition
from support.manifests.rendering import rendered
from support.manifests.resources import Manifests
from support.pages import ROOT, read
from support.settings_page import SERVICES as SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = composition()["services"]
SERVICES = ("ca", "directory", "delivery")
VALKEYS = ("cache", "mailboxes", "limits")


def taken(text: str) -> str:
    """Return a text with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def environment_of(service: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in COMPOSE[service].get("env_file", []):
        lines = (line for line in read(ROOT / file).splitlines() if line and not line.startswith("#"))
        found |= dict(line.split("=", 1) for line in lines)
    return found | {name: taken(value) for name, value in COMPOSE[service].get("environment", {}).items()}


@pytest.mark.parametrize("service", COMPOSE)
def test_every_service_is_hardened_and_nobody_is_root(service: str) -> None:
    found = COMPOSE[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["user"] in ("10001:10001", "999:999")
    for port in found.get("ports", []):
        assert taken(port).startswith("127.0.0.1:")
    assert ("ports" in found) is (service in SERVICES)
    networks = set(found.get("networks", []))
    assert networks <= ({"stores", "services"} if service in SERVICES else {"stores"})
    assert networks or found["network_mode"] == "none"


def test_stores_reach_nobody() -> None:
    assert composition()["networks"]["stores"] == {"internal": True}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_takes_its_settings(service: str, tmp_path: Path) -> None:
    settings_cls = SETTINGS[f"keypost-{service}"]
    files = ["tls/public/tls.crt", "tls/public/tls.key", "tls/internal/tls.crt", "tls/internal/tls.key"]
    files += ["tls/internal/ca.crt", "bundle/bundle.json"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in VALKEYS:
        (tmp_path / f"{name}-url").write_text(f"redis://:secret@{name}:6379/0\n")
    moved = {name: value.replace("/etc/keypost", str(tmp_path)) for name, value in environment_of(service).items()}
    with mock.patch.dict(os.environ, moved, clear=True):
        settings = load_settings(settings_cls)
    assert settings.limits_url == "redis://:secret@limits:6379/0"
    # As long as the service may take to end, and something.
    grace = float(COMPOSE[service]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_seconds + SETTLE_SECONDS + LAST_SECONDS
    assert settings.metrics_listen == "0.0.0.0:9090"  # what the health check asks
    assert settings.health_listen is None
    assert "KEYPOST_" in describe_settings(settings_cls)


def test_secrets_are_in_files_alone() -> None:
    text = re.sub(r"^\s*#.*$", "", read(ROOT / "compose.yaml"), flags=re.MULTILINE)
    assert re.findall(r"(?i)[\w-]*password[\w-]*[:=]\s*(?!/etc/keypost/)\S+", text) == []
    assert re.findall(r"://[^\s/]*:[^\s/@]*@", text) == [], "a URL with a password"
    for service in SERVICES:
        urls = {name for name in environment_of(service) if "_URL" in name}
        assert urls
        assert all(name.endswith("_URL_FILE") for name in urls)


def test_people_sign_in_by_code_unless_somebody_says_otherwise() -> None:
    assert environment_of("ca")["KEYPOST_CA_SIGN_IN"] == "code"


def test_each_part_sees_its_own_folder_and_provision_makes_them_all() -> None:
    made = dict(mount.split(":") for mount in COMPOSE["provision"]["volumes"])
    assert made == {part: f"/provision/{part}" for part in PARTS}
    (folders,) = re.findall(r"^for part in (.*); do$", read(ROOT / "deploy/image/strip.sh"), re.MULTILINE)
    assert folders.split() == list(PARTS)
    for service in COMPOSE.keys() - {"provision"}:
        given = [mount for mount in COMPOSE[service]["volumes"] if mount.partition(":")[0] in PARTS]
        assert given == [f"{service}:/etc/keypost:ro"]


def test_it_runs_the_image_that_make_image_builds() -> None:
    ours = {found["image"] for found in COMPOSE.values() if "build" in found}
    assert {taken(image) for image in ours} == {f"keypost:{version('keypost')}"}
    assert {found["build"]["args"]["VERSION"] for found in COMPOSE.values() if "build" in found} == {version("keypost")}


def test_stores_are_what_the_manifests_have() -> None:
    """One opinion of what the mailboxes' server must do, in two files."""
    pods = {pod.name.removeprefix("keypost-"): pod.spec["containers"][0] for pod in Manifests(rendered("dev")).pods}
    for name in VALKEYS:
        assert taken(COMPOSE[name]["image"]) == pods[name]["image"]
        words = [str(word) for word in COMPOSE[name]["command"]]
        assert words[:2] == ["valkey-server", "/etc/keypost/password.conf"]
        assert pairs(words[2:]) == pairs([*pods[name]["command"][1:], *pods[name]["args"]]) - {"--requirepass"}
    assert taken(COMPOSE["postgres"]["image"]) == pods["postgres"]["image"]
    initdb: Any = next(each for each in pods["postgres"]["env"] if each["name"] == "POSTGRES_INITDB_ARGS")
    assert COMPOSE["postgres"]["environment"]["POSTGRES_INITDB_ARGS"] == initdb["value"]


def pairs(words: list[str]) -> set[str]:
    """Return options with their values, and of a password nothing but the option."""
    text = " ".join(word if word.startswith("--") else f"={word}" for word in words)
    return {re.sub(r"(--requirepass).*", r"\1", each) for each in re.sub(" =", "=", text).split(" ")}


def test_nothing_starts_before_what_it_needs() -> None:
    for name, found in COMPOSE.items():
        for other, condition in found.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in COMPOSE[other]), f"{name} waits for {other}"
    assert all("healthcheck" in found or name in ("provision", "migrations") for name, found in COMPOSE.items())
