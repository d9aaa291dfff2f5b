"""Which tests are measured when coverage is asked for: those that are there to show each line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from coverage import Coverage

TESTS = Path(__file__).parents[1]
MEASURED = ("unit", "vectors", "contract", "integration")
"""The other folders run whole stacks, or one attack again and again: to measure them would cost half as much again."""
CHILDREN = "COVERAGE_PROCESS_CONFIG"
"""The variable that has a Python process measure itself."""


class CoverageSwitch:
    """Turns coverage on and off between tests.

    A process that xdist starts measures twice: as a child, and for pytest-cov. The one that began later holds the other
    back, and stopped alone would only let it go on; both are stopped.

    Args:
        current: Returns what measures this process, the latest that began and has not ended; None: nothing does.
    """

    def __init__(self, current: Callable[[], Coverage | None]) -> None:
        self._current = current
        self._children = os.environ.get(CHILDREN)
        self._stopped: list[Coverage] = []

    def move_to(self, path: Path) -> None:
        """Measure what runs from now on, and the processes that it starts, if the tests of this file are measured."""
        if path.relative_to(TESTS).parts[0] in MEASURED:
            while self._stopped:
                self._stopped.pop().start()
            if self._children is not None:
                os.environ[CHILDREN] = self._children
        else:
            while running := self._current():
                running.stop()
                self._stopped.append(running)
            os.environ.pop(CHILDREN, None)
