"""Opens the CA's store: for a process that serves, locked and brought up to date; for a command, as it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from keypost_services.ca.engine import database_file, open_engine
from keypost_services.ca.migrate import check_schema, migrate
from keypost_services.ca.store_sql import SqlStore
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.lock import FileLock, LockHeldError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine


@asynccontextmanager
async def open_store(database: str) -> AsyncIterator[SqlStore]:
    """Lock the database for this process, bring its tables up to date, and open it.

    Raises:
        StartError: Another CA process uses the database, or it cannot be opened.
    """
    engine = open_engine(database)
    lock = _lock_of(database)
    try:
        await _prepare(engine, lock)
        yield SqlStore(engine)
    finally:
        await engine.dispose()
        lock.release()


@asynccontextmanager
async def open_store_as_it_is(database: str) -> AsyncIterator[SqlStore]:
    """Open the database as it is, for a command: a CA may be serving from it meanwhile.

    Raises:
        SchemaOutdatedError: Its tables are not those of this version.
    """
    engine = open_engine(database)
    try:
        await check_schema(engine)
        yield SqlStore(engine)
    finally:
        await engine.dispose()


async def _prepare(engine: AsyncEngine, lock: FileLock) -> None:
    try:
        lock.acquire()
        await migrate(engine)
    except LockHeldError as error:
        raise StartError(f"another keypost-ca process uses the database: {error}") from error
    except (SQLAlchemyError, OSError) as error:
        raise StartError(f"the database cannot be opened: {str(error).splitlines()[0]}") from error
    except CommandError as error:
        raise StartError(f"the database is not one of this version: {error}") from error


def _lock_of(database: str) -> FileLock:
    file = database_file(database)
    if file is None:
        raise StartError("KEYPOST_CA_DATABASE: this version serves from SQLite alone")
    return FileLock(Path(f"{file}.lock"))
