"""Runs each attack twice: as it is, and with the function that defends taken out; then the attack must succeed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.defences import Defence, attack_succeeds, load
from support.people import alice, bob, clock, generate, open_client, services, surface, tls
from support.plain_stack import plain_stack
from support.plain_world import delivery_stack, plain_world

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "alice",
    "bob",
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

DEFENCES = load()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = f"{Path(metafunc.definition.path).name}::{metafunc.function.__name__}"
    if name in DEFENCES:
        outs = [pytest.param(defence, id=f"without {defence.function}") for defence in DEFENCES[name]]
        metafunc.parametrize("defence", [pytest.param(None, id="defended"), *outs], indirect=True)


@pytest.fixture(autouse=True)
def defence(request: pytest.FixtureRequest) -> Generator[None]:
    taken_out: Defence | None = getattr(request, "param", None)
    if taken_out is None:
        yield
        return
    with taken_out.out():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    callspec = getattr(pyfuncitem, "callspec", None)
    taken_out: Defence | None = callspec.params.get("defence") if callspec else None
    if taken_out is None:
        return (yield)
    with attack_succeeds(taken_out):
        yield
    return True
