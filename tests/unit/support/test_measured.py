from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from coverage import Coverage

from support.measured import CHILDREN, MEASURED, TESTS, CoverageSwitch


class Running:
    """Coverage that began once or several times in a process, as ``Coverage.current`` tells of it."""

    def __init__(self, times: int) -> None:
        self.stack: list[One] = []
        self.all = [One(self.stack) for _ in range(times)]
        for one in self.all:
            one.start()

    def current(self) -> Any:
        return self.stack[-1] if self.stack else None


class One:
    def __init__(self, stack: list[One]) -> None:
        self._stack = stack

    def start(self) -> None:
        self._stack.append(self)

    def stop(self) -> None:
        assert self._stack.pop() is self


def test_what_is_measured_is_there() -> None:
    assert [name for name in MEASURED if not (TESTS / name).is_dir()] == []


@pytest.mark.parametrize("times", [1, 2])
def test_whole_stacks_are_not_measured_nor_what_they_start(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setenv(CHILDREN, "how")
    running = Running(times)
    switch = CoverageSwitch(running.current)
    seen = []
    for name in ("unit", "races", "attacks", "integration", "contract", "faults"):
        switch.move_to(TESTS / name / "test_something.py")
        seen.append((name, len(running.stack), os.environ.get(CHILDREN)))
    assert seen == [
        ("unit", times, "how"),
        ("races", 0, None),
        ("attacks", 0, None),
        ("integration", times, "how"),
        ("contract", times, "how"),
        ("faults", 0, None),
    ]
    switch.move_to(TESTS / "unit/test_something.py")
    assert running.stack == running.all


def test_without_coverage_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHILDREN, raising=False)
    switch = CoverageSwitch(lambda: None)
    for name in ("races", "unit"):
        switch.move_to(TESTS / name / "test_something.py")
    assert CHILDREN not in os.environ


def test_coverage_that_began_twice_lets_nothing_be_traced() -> None:
    """As in a process that xdist starts, where the first goes on when the second is stopped."""
    both = [Coverage(data_file=None) for _ in range(2)]
    for one in both:
        one.start()
    switch = CoverageSwitch(Coverage.current)
    switch.move_to(TESTS / "races/test_something.py")
    traced = sys.gettrace()
    switch.move_to(TESTS / "unit/test_something.py")
    again = Coverage.current()
    for one in reversed(both):
        one.stop()
    assert traced is None
    assert again is both[-1]
