from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from keypost.keystore import Limits
from support.key_store import Reopening

if TYPE_CHECKING:
    from pathlib import Path

Factory = Callable[[Limits], Reopening]


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "profile" if request.param == "disk" else None


@pytest.fixture
def limited(folder: Path | None) -> Iterator[Factory]:
    """Make a store with limits of the test's own."""
    made: list[Reopening] = []

    def make(limits: Limits) -> Reopening:
        made.append(Reopening.new(folder, limits))
        return made[-1]

    yield make
    for reopening in made:
        reopening.store.close()


@pytest.fixture
def key_store(limited: Factory) -> Reopening:
    return limited(Limits())
