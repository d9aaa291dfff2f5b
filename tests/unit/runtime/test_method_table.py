from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from keypost_services.runtime.method_table import METHODS, REFLECTION_METHODS, administrators, devices, services

PROTOS = Path(__file__).parents[3] / "protos"
SERVICE_FILES = sorted(path.relative_to(PROTOS) for path in PROTOS.glob("keypost/**/*.proto"))


def methods_of(file: object) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for service in file.services_by_name.values()  # type: ignore[attr-defined]
        for method in service.methods
    }


def test_every_method_of_the_protos_is_listed_and_no_other() -> None:
    listed = methods_of(health_pb2.DESCRIPTOR)
    for path in SERVICE_FILES:
        module = importlib.import_module(".".join(path.with_suffix("").parts) + "_pb2")
        listed |= methods_of(module.DESCRIPTOR)
    assert set(METHODS) == listed
    assert set(REFLECTION_METHODS) == methods_of(reflection_pb2.DESCRIPTOR)


@pytest.mark.parametrize(
    ("prefix", "services", "by_devices"),
    [
        ("/keypost.ca.v1.KeyInfoService/", {"directory"}, False),
        ("/keypost.directory.v1.KeyEventService/", {"delivery"}, False),
        ("/keypost.directory.v1.DirectoryService/GetKeyInfo", {"delivery"}, True),
        ("/keypost.directory.v1.DirectoryService/BatchGetKeyInfo", {"delivery"}, True),
        ("/keypost.delivery.v1.", set(), True),
    ],
)
def test_who_may_call_what_is_not_for_everybody(prefix: str, services: set[str], by_devices: bool) -> None:  # noqa: FBT001
    rows = [callers for method, callers in METHODS.items() if method.startswith(prefix)]
    assert rows
    for callers in rows:
        assert callers.services == services
        assert callers.devices is by_devices
        assert not callers.anyone
        assert not callers.administrators


def test_administrators_alone_administer_and_do_nothing_else() -> None:
    theirs = {method for method, callers in METHODS.items() if callers.administrators}
    assert theirs == {method for method in METHODS if method.startswith("/keypost.ca.v1.AdministrationService/")}
    assert {METHODS[method] for method in theirs} == {administrators()}


def test_whoever_is_not_named_is_not_admitted() -> None:
    assert not devices().anyone
    assert devices().services == frozenset()
    assert not devices().administrators
    assert not services("directory").administrators
    assert administrators().services == frozenset()
    assert not administrators().devices
    assert not administrators().anyone
