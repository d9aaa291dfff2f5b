"""Runs each attack as it is, and again without what defends; then it must succeed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.attacks import Without, load
from support.ca_service import ca
from support.people import alice, bob, clock, generate, open_client, services, surface, tls
from support.plain_stack import plain_stack
from support.plain_world import delivery_stack, plain_world

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "alice",
    "bob",
    "ca",
    "clock",
    "delivery_stack",
    "generate",
    "open_client",
    "plain_stack",
    "plain_world",
    "services",
    "surface",
    "tls",
]

ATTACKS = load()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = f"{Path(metafunc.definition.path).name}::{metafunc.function.__name__}"
    if name in ATTACKS:
        runs = [pytest.param(run, id=str(run)) for run in ATTACKS[name].runs()]
        metafunc.parametrize("without", [pytest.param(None, id="defended"), *runs], indirect=True)


@pytest.fixture(autouse=True)
def without(request: pytest.FixtureRequest) -> Generator[None]:
    run: Without | None = getattr(request, "param", None)
    if run is None:
        yield
        return
    with run.taken_out():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    callspec = getattr(pyfuncitem, "callspec", None)
    run: Without | None = callspec.params.get("without") if callspec else None
    if run is None:
        return (yield)
    with run.must_fail():
        yield
    return True
