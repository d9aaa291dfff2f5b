"""Which tests are measured when coverage is asked for: those that are there to show each line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coverage import Coverage

TESTS = Path(__file__).parents[1]
MEASURED = ("unit", "vectors", "contract", "integration")
"""The other folders run whole stacks, or one attack again and again: to measure them would cost half as much again."""
CHILDREN = "COVERAGE_PROCESS_CONFIG"
"""The variable that has a Python process measure itself."""


class CoverageSwitch:
    """Turns coverage on and off between tests.

    Args:
        coverage: What measures, started; None: nothing does.
    """

    def __init__(self, coverage: Coverage | None) -> None:
        self._coverage = coverage
        self._children = os.environ.get(CHILDREN)
        self._on = True

    def move_to(self, path: Path) -> None:
        """Measure what runs from now on, and the processes that it starts, if the tests of this file are measured."""
        wanted = path.relative_to(TESTS).parts[0] in MEASURED
        if self._coverage is None or wanted is self._on:
            return
        self._on = wanted
        if wanted:
            self._coverage.start()
        else:
            self._coverage.stop()
        if self._children is not None:
            _set_children(self._children if wanted else None)


def _set_children(value: str | None) -> None:
    if value is None:
        os.environ.pop(CHILDREN, None)
    else:
        os.environ[CHILDREN] = value
