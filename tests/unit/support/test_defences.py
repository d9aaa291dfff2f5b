"""A defence that is out is out for everybody."""

from __future__ import annotations

from typing import Any

import pytest

from keypost.errors import KeypostError
from keypost.protocol import identifiers, tokens
from keypost.protocol.identifiers import Address, check_username
from keypost.protocol.key_info import Key
from support.defences import Defence, find

CHECK = "keypost.protocol.identifiers:check_username"


def with_scope() -> Any:
    scope = "outer"

    def inner(value: str) -> str:
        return f"{scope}: {value}"

    return inner


def test_it_is_out_under_every_name_and_back_again() -> None:
    with Defence(CHECK, returns_argument="username").out():
        assert check_username("NOT A NAME") == identifiers.check_username(username="NOT A NAME") == "NOT A NAME"
    with pytest.raises(KeypostError):
        check_username("NOT A NAME")


def test_by_default_nothing_happens() -> None:
    with Defence("keypost.protocol.tokens:verify_token").out():
        assert tokens.verify_token("no token", None, "", 0) is None  # type: ignore[arg-type]


def test_methods_and_properties_are_found() -> None:
    with Defence("keypost.protocol.key_info:Key.is_good", returns=True).out():
        assert Key.is_good.fget(None) is True  # type: ignore[attr-defined]
    with Defence("keypost.protocol.identifiers:Address.parse", instead="support.defences:find").out():
        assert find("keypost.protocol.identifiers:Address.parse")


async def test_a_coroutine_stays_one() -> None:
    with Defence("keypost.client.stopping:Stopping.check_not_stolen", returns=7).out():
        assert await find("keypost.client.stopping:Stopping.check_not_stolen")(None) == 7


def test_a_function_with_a_scope_of_its_own_is_taken_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = with_scope()
    monkeypatch.setattr(Address, "inner", inner, raising=False)
    with Defence("keypost.protocol.identifiers:Address.inner", returns=7).out():
        assert inner("x") == 7
    assert inner("x") == "outer: x"


def test_what_is_not_there_is_said() -> None:
    for name in ("keypost.nowhere:x", "keypost.errors:nothing", "keypost.errors:KeypostError"):
        with pytest.raises(ValueError, match=name):
            find(name)
