"""The synchronous client is the asyncio one, name for name: a difference is to be seen here first."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import keypost
import keypost.sync


def public(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[Any, ...]]:
    each = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default, one.annotation) for one in each]


METHODS = sorted(name for name, value in public(keypost.Client).items() if callable(value))


def test_both_have_the_same_names() -> None:
    assert public(keypost.sync.Client).keys() == public(keypost.Client).keys()
    assert {"open", "close", "send", "receive"} < set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_and_returns_the_same(name: str) -> None:
    plain, awaitable = getattr(keypost.sync.Client, name), getattr(keypost.Client, name)
    assert parameters(plain) == parameters(awaitable)
    returned = inspect.signature(awaitable).return_annotation
    assert inspect.signature(plain).return_annotation == returned.replace("AsyncGenerator", "Generator")
    assert not inspect.iscoroutinefunction(plain)
    assert plain.__doc__


@pytest.mark.parametrize("name", ["Received", "ReceivedFile"])
def test_what_is_received_shows_the_same(name: str) -> None:
    plain, awaitable = getattr(keypost.sync, name), getattr(keypost, name)
    assert public(plain).keys() == public(awaitable).keys()
    assert [each.name for each in dataclasses.fields(plain) if not each.name.startswith("_")] == [
        each.name for each in dataclasses.fields(awaitable) if not each.name.startswith("_")
    ]
    shown = inspect.signature(keypost.ReceivedFile.chunks).return_annotation
    assert inspect.signature(keypost.sync.ReceivedFile.chunks).return_annotation == shown.replace("Async", "")
