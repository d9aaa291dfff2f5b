from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.ca_service import CaUnderTest, open_ca

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[CaUnderTest]:
    """A CA with open sign-in, both suites allowed."""
    async with open_ca(tmp_path) as opened:
        yield opened
