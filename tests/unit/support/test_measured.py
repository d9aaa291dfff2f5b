from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from support.measured import CHILDREN, MEASURED, TESTS, CoverageSwitch

if TYPE_CHECKING:
    import pytest


class Counts:
    """Coverage that only says whether it is on."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")


def test_what_is_measured_is_there() -> None:
    assert [name for name in MEASURED if not (TESTS / name).is_dir()] == []


def test_whole_stacks_are_not_measured_nor_what_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHILDREN, "how")
    coverage: Any = Counts()
    switch = CoverageSwitch(coverage)
    seen = []
    for name in ("unit", "races", "attacks", "integration", "contract", "faults"):
        switch.move_to(TESTS / name / "test_something.py")
        seen.append((name, coverage.told[-1:], os.environ.get(CHILDREN)))
    assert seen == [
        ("unit", [], "how"),
        ("races", ["stop"], None),
        ("attacks", ["stop"], None),
        ("integration", ["start"], "how"),
        ("contract", ["start"], "how"),
        ("faults", ["stop"], None),
    ]
    assert coverage.told == ["stop", "start", "stop"]


def test_without_coverage_nothing_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHILDREN, "how")
    CoverageSwitch(None).move_to(TESTS / "races/test_something.py")
    assert os.environ[CHILDREN] == "how"
