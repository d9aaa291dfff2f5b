"""Which modules of tests begin first when several processes share them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

TESTS = Path(__file__).parents[1]
LONGEST = (
    "faults/test_faults.py",
    "e2e/test_docs.py",
    "races/test_fourteen_steps.py",
    "e2e/test_story.py",
    "e2e/test_up.py",
    "upgrade/test_rolling.py",
    "integration/client/test_killed.py",
    "cluster/test_failures.py",
    "secrets/test_closing.py",
    "secrets/test_scan.py",
    "e2e/test_cli_devices.py",
    "cluster/test_subscriptions.py",
    "bad_input/test_ca.py",
)
"""Those that run for half a minute or more. A module is one process's: begun last, it lets the others wait for it."""


def longest_first(items: list[pytest.Item]) -> None:
    """Move the longest modules to the front; everything else stays as it is."""
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
