"""A whole delivery for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.delivery import Stack, open_stack
from support.delivery_world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path) as opened:
        yield opened


@pytest.fixture
async def world(stack: Stack) -> World:
    made = World(stack)
    await made.start()
    return made
