from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from keypost_services.ca.engine import open_engine
from keypost_services.ca.migrate import migrate
from keypost_services.ca.store_sql import SqlStore

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from keypost_services.ca.store import Store

Opener = Callable[[], "AbstractAsyncContextManager[Store]"]


@asynccontextmanager
async def _open_sqlite(folder: Path) -> AsyncIterator[Store]:
    engine = open_engine(f"sqlite:///{folder / 'ca.db'}")
    await migrate(engine)
    yield SqlStore(engine)
    await engine.dispose()


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same database each time it is called, with tables."""
    adapters = {"sqlite": _open_sqlite}
    return lambda: adapters[request.param](tmp_path)


@pytest.fixture
async def store(open_store: Opener) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened
