from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost.protocol.suites import STRONG, WEAK
from keypost_services.ca.settings import CaSettings
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.settings import DirectorySettings
from keypost_services.embedded.layout import SERVICES, Layout, settings_of

if TYPE_CHECKING:
    from keypost_services.runtime.config import ServiceSettings

LAYOUT = Layout(Path("/data"))
PORTS = {name: {"public": 10 + number, "internal": 20 + number} for number, name in enumerate(SERVICES)}
SETTINGS = {"ca": CaSettings, "directory": DirectorySettings, "delivery": DeliverySettings}


def test_the_weak_suite_is_off_unless_asked_for() -> None:
    assert LAYOUT.allowed_suites == (STRONG,)
    assert WEAK in Layout(Path("/data"), weak_suite=True).allowed_suites


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_listens_on_the_loopback_address_alone(service: str) -> None:
    settings = settings_of(LAYOUT, service, PORTS, "redis://x")
    listens = {value.partition(":")[0] for name, value in settings.items() if name.endswith("_LISTEN")}
    assert listens == {"127.0.0.1"}


@pytest.mark.parametrize(("service", "settings"), SETTINGS.items())
def test_a_service_knows_every_setting_that_it_is_given(service: str, settings: type[ServiceSettings]) -> None:
    known = {f"KEYPOST_{service}_{name}".upper() for name in settings.model_fields}
    assert set(settings_of(LAYOUT, service, PORTS, "redis://x")) <= known
