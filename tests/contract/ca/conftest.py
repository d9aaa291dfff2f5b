from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from keypost_services.ca.engine import open_engine
from keypost_services.ca.store_sql import SqlStore
from support.ca_database import KINDS, ca_database

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from keypost_services.ca.store import Store

Opener = Callable[[], "AbstractAsyncContextManager[Store]"]


@asynccontextmanager
async def _open(url: str) -> AsyncIterator[Store]:
    engine = open_engine(url)
    try:
        yield SqlStore(engine)
    finally:
        await engine.dispose()


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same database each time it is called, with tables."""
    with ca_database(request.param, tmp_path) as url:
        yield lambda: _open(url)


@pytest.fixture
async def store(open_store: Opener) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened
