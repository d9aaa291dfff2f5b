from __future__ import annotations

from pathlib import Path

import pytest

from keypost_services.ca.settings import CaSettings
from keypost_services.embedded.layout import SERVICES, Layout, bundle_arguments, init_arguments, settings_of

LAYOUT = Layout(Path("/data"))
PORTS = {name: {"public": 10 + number, "internal": 20 + number} for number, name in enumerate(SERVICES)}


def test_the_weak_suite_is_off_unless_asked_for() -> None:
    assert LAYOUT.allowed_suites == ("RSA3072_AES256",)
    assert "RSA1024_AES128" not in " ".join(init_arguments(LAYOUT))
    assert "RSA1024_AES128" in " ".join(init_arguments(Layout(Path("/data"), weak_suite=True)))


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_listens_on_the_loopback_address_alone(service: str) -> None:
    settings = settings_of(LAYOUT, service, {}, PORTS, "redis://x")
    listens = {value for name, value in settings.items() if name.endswith("_LISTEN")}
    assert listens == {"127.0.0.1:0"}


def test_a_service_gets_its_ports_of_the_last_time() -> None:
    settings = settings_of(LAYOUT, "ca", {"public": 1234, "internal": 1235}, {}, "redis://x")
    assert settings["KEYPOST_CA_PUBLIC_LISTEN"] == "127.0.0.1:1234"
    assert settings["KEYPOST_CA_INTERNAL_LISTEN"] == "127.0.0.1:1235"


def test_the_ca_knows_every_setting_that_it_is_given() -> None:
    known = {f"KEYPOST_CA_{name.upper()}" for name in CaSettings.model_fields}
    assert set(settings_of(LAYOUT, "ca", {}, {}, "redis://x")) <= known


def test_the_bundle_names_the_public_ports() -> None:
    assert {"--ca=127.0.0.1:10", "--directory=127.0.0.1:11", "--delivery=127.0.0.1:12"} <= set(
        bundle_arguments(LAYOUT, PORTS)
    )
