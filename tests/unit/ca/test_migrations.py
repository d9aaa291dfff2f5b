from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from keypost_services.ca.engine import WRITES, open_engine
from keypost_services.ca.migrate import SchemaDiffersError, check_schema, expected_revision, migrate
from keypost_services.ca.tables import metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine


ENTRY = "5, 'enrolled', 'sign_in', 'open', 'alice', 'a', x'00', 1, 0, '', '', x'', x'00'"
"""An entry of the audit log without its number."""


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(f"sqlite:///{tmp_path / 'ca.db'}")
    yield opened
    await opened.dispose()


async def test_the_steps_lead_to_the_tables(engine: AsyncEngine) -> None:
    assert await migrate(engine) == expected_revision()

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_to_migrate_again_changes_nothing(engine: AsyncEngine) -> None:
    await migrate(engine)
    await migrate(engine)
    await check_schema(engine)


async def test_an_empty_database_is_not_ready(engine: AsyncEngine) -> None:
    with pytest.raises(SchemaDiffersError, match="step none"):
        await check_schema(engine)


async def test_who_will_write_holds_the_database_from_the_start(engine: AsyncEngine, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ca.db", timeout=0, isolation_level=None)) as other:
        async with engine.connect() as reading:
            await reading.exec_driver_sql("SELECT 1")
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        async with engine.execution_options(**{WRITES: True}).connect() as writing:
            await writing.begin()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET actor = 'nobody'",
        "DELETE FROM audit_entries",
        "INSERT OR REPLACE INTO audit_entries SELECT * FROM audit_entries",
        f"INSERT INTO audit_entries SELECT 3, {ENTRY}",
        f"INSERT INTO audit_entries SELECT 0, {ENTRY}",
    ],
)
async def test_the_database_refuses_to_touch_the_audit_log(engine: AsyncEngine, tmp_path: Path, statement: str) -> None:
    await migrate(engine)
    with closing(sqlite3.connect(tmp_path / "ca.db")) as database:
        database.execute(f"INSERT INTO audit_entries SELECT 1, {ENTRY}")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
        database.execute(f"INSERT INTO audit_entries SELECT 2, {ENTRY}")


async def test_what_sqlite_promises_is_switched_on(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        answers = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert answers == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
