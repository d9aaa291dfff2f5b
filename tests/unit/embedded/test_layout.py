from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keypost.protocol.suites import STRONG, WEAK
from keypost_services.ca.settings import CaSettings
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.settings import DirectorySettings
from keypost_services.embedded.command_line import StackName
from keypost_services.embedded.layout import SERVICES, SHAPES, Layout, service_of, settings_of

if TYPE_CHECKING:
    from keypost_services.runtime.config import ServiceSettings

LAYOUT = Layout(Path("/data"))
PORTS = {name: {"public": 10 + number, "internal": 20 + number} for number, name in enumerate(SERVICES)}
CLUSTER = Layout(Path("/data"), shape=SHAPES["cluster"])
MANY_PORTS = {
    name: {"public": 10 + number, "internal": 20 + number} for number, name in enumerate(CLUSTER.shape.processes)
}
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


def test_the_larger_shapes_have_two_processes_of_ca_and_delivery() -> None:
    assert CLUSTER.shape.processes == ("ca", "ca-2", "directory", "delivery", "delivery-2")
    assert [service_of(name) for name in CLUSTER.shape.processes] == ["ca", "ca", "directory", "delivery", "delivery"]


def test_two_processes_of_a_service_share_what_it_keeps_and_no_port() -> None:
    one, other = (
        settings_of(CLUSTER, name, MANY_PORTS, "redis://x", mailboxes="redis+cluster://y")
        for name in ("delivery", "delivery-2")
    )
    assert {name for name in one if one[name] != other[name]} == {
        "KEYPOST_DELIVERY_PUBLIC_LISTEN",
        "KEYPOST_DELIVERY_INTERNAL_LISTEN",
        "KEYPOST_DELIVERY_READY_FILE",
    }
    assert one["KEYPOST_DELIVERY_MAILBOXES_URL"] == "redis+cluster://y"
    assert one["KEYPOST_DELIVERY_DURABILITY"] == "replicated"
    assert one["KEYPOST_DELIVERY_LIMITS_URL"] == "redis://x"


def test_a_database_that_is_no_file_is_told_to_every_ca() -> None:
    for name in ("ca", "ca-2"):
        settings = settings_of(CLUSTER, name, MANY_PORTS, "redis://x", database="postgresql://z/keypost")
        assert settings["KEYPOST_CA_DATABASE"] == "postgresql://z/keypost"


def test_the_directory_calls_every_ca() -> None:
    settings = settings_of(CLUSTER, "directory", MANY_PORTS, "redis://x")
    assert settings["KEYPOST_DIRECTORY_CA"] == "ipv4:127.0.0.1:20,127.0.0.1:21"


def test_every_shape_can_be_asked_for_by_its_name() -> None:
    assert [str(name) for name in StackName] == list(SHAPES)
