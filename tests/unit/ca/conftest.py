from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.ca import CaBench, open_bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CaBench]:
    """A CA with open sign-in, both suites allowed."""
    async with open_bench(tmp_path) as opened:
        yield opened


@pytest.fixture
async def code_bench(tmp_path: Path) -> AsyncIterator[CaBench]:
    """A CA that asks for one-time codes."""
    async with open_bench(tmp_path, open_sign_in=False) as opened:
        yield opened
