from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.order import LONGEST, TESTS, longest_first


def test_every_module_that_goes_first_is_there() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []


def test_the_longest_go_first_and_the_rest_stays_in_its_order() -> None:
    paths = [Path("b"), TESTS / LONGEST[1], Path("a"), TESTS / LONGEST[0], Path("b")]
    items: list[Any] = [SimpleNamespace(path=path, number=number) for number, path in enumerate(paths)]
    longest_first(items)
    assert [item.number for item in items] == [3, 1, 0, 2, 4]
