"""The SDK of this version takes nothing away that the previous one exports, and asks for nothing more."""

from __future__ import annotations

from pathlib import Path

import keypost
from support.public_api import broken, recorded, surface

PREVIOUS = Path(__file__).with_name("previous_api.txt")


def test_nothing_is_taken_away() -> None:
    assert broken(recorded(PREVIOUS), surface()) == []


def test_the_surface_is_what_the_sdk_exports() -> None:
    lines = surface()
    assert {f"keypost.{name}" for name in keypost.__all__} - {"keypost.sync"} <= set(lines)
    assert "keypost.Client.send(username) by place or name required" in lines
    assert "keypost.sync.Client.send(username) by place or name required" in lines
    assert "keypost.Received.body" in lines


def test_what_is_taken_away_or_demanded_is_found() -> None:
    before = ["a.f", "a.f(x) by name required", "a.f(y) by name", "a.g"]
    assert broken(before, [*before, "a.f(z) by name", "a.h", "a.h(x) by name required"]) == []
    assert broken(before, ["a.f", "a.f(x) by name", "a.f(y) by name", "a.g"]) == []
    assert broken(before, before[:-1]) == ["a.g"]
    assert broken(before, ["a.f", "a.f(x) by name required", "a.f(y) by name required", "a.g"]) == [
        "a.f(y) by name",
        "a.f(y) by name required",
    ]
    assert broken(before, [*before, "a.f(z) by name required"]) == ["a.f(z) by name required"]
