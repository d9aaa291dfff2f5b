"""What a store says when its database does not do what it should."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from keypost_services.ca.engine import open_engine
from keypost_services.ca.migrate import migrate
from keypost_services.ca.store import Identity, StoreAwayError
from keypost_services.ca.store_sql import SqlStore
from support.ca_changes import change, key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOMEBODY = Identity("alice", "https://id.example.org", "subject")


@asynccontextmanager
async def opened(file: Path, **pragmas: int) -> AsyncIterator[SqlStore]:
    engine = open_engine(f"sqlite:///{file}")
    await migrate(engine)
    await engine.dispose()

    def set_up(connection: Any, _record: object) -> None:
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}")

    event.listen(engine.sync_engine, "connect", set_up)
    yield SqlStore(engine)
    await engine.dispose()


async def test_a_full_disk_is_the_databases_and_readers_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "ca.db", max_page_count=1) as store:
        with pytest.raises(StoreAwayError, match="the CA's database is not there"):
            await store.apply(change(key(1, key_request=bytes(100_000))))
        assert await store.find_users(["alice"]) == {}
    async with opened(tmp_path / "ca.db") as store:
        await store.apply(change(key(1)))
        assert await store.newest_sequence() == 1


async def test_a_database_that_somebody_else_holds_is_the_databases_fault(tmp_path: Path) -> None:
    async with opened(tmp_path / "ca.db", busy_timeout=10) as store:
        with closing(sqlite3.connect(tmp_path / "ca.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreAwayError) as refused:
                await store.apply(change(key(1)))
        assert refused.value.reason == "DATABASE_UNAVAILABLE"
        await store.apply(change(key(1)))


async def test_a_fault_of_ours_is_not_taken_for_the_databases(tmp_path: Path) -> None:
    async with opened(tmp_path / "ca.db") as store:
        with closing(sqlite3.connect(tmp_path / "ca.db")) as other:
            other.execute("DROP TABLE identities")
        with pytest.raises(OperationalError, match="no such table"):
            await store.apply(change(key(1), identity=SOMEBODY))
