"""Opens the CA's store: for a process that serves, brought up to date; for a command, as it is."""

from __future__ import annotations

import contextlib
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from keypost_services.ca.engine import CONNECTIONS, database_file, open_engine
from keypost_services.ca.engine_postgres import UnsuitableDatabaseError, check_nobody_restores, check_suitable
from keypost_services.ca.engine_postgres import alone as hold_alone
from keypost_services.ca.migrate import SchemaDiffersError, check_schema, migrate
from keypost_services.ca.store_failures import sentence_of
from keypost_services.ca.store_sql import SqlStore
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.lock import FileLock, LockHeldError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from keypost_services.ca.metrics import Metrics


@asynccontextmanager
async def open_store(
    database: str,
    connections: int = CONNECTIONS,
    *,
    grant_to: str | None = None,
    metrics: Metrics | None = None,
    alone: bool = False,
) -> AsyncIterator[SqlStore]:
    """Bring the database's tables up to date, and open it; an SQLite database is this process's alone.

    Args:
        database: Its URL.
        connections: How many there may be at once, to PostgreSQL.
        grant_to: The role of PostgreSQL that is to serve from it, granted what that needs.
        metrics: Measures it, where anybody reads that.
        alone: Nobody may serve from it meanwhile, of a PostgreSQL database neither.

    Raises:
        StartError: Another CA process uses the database, it cannot be opened, or is not of this version.
    """
    engine = open_engine(database, connections)
    try:
        with _locked(database):
            async with _nobody_serves(engine) if alone else contextlib.nullcontext():
                await _prepare(engine, grant_to, alone=alone)
                yield SqlStore(engine, metrics)
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_store_as_it_is(database: str) -> AsyncIterator[SqlStore]:
    """Open the database as it is, for a command: a CA may be serving from it meanwhile.

    Raises:
        SchemaDiffersError: Its tables are not those of this version.
    """
    engine = open_engine(database)
    try:
        await check_schema(engine)
        yield SqlStore(engine)
    finally:
        await engine.dispose()


async def _prepare(engine: AsyncEngine, grant_to: str | None, *, alone: bool) -> None:
    with _start_errors():
        if _is_shared(engine):
            await check_suitable(engine)
            if not alone:
                await check_nobody_restores(engine)
        await migrate(engine, grant_to=grant_to)


@asynccontextmanager
async def _nobody_serves(engine: AsyncEngine) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if _is_shared(engine):
            with _start_errors():
                await stack.enter_async_context(hold_alone(engine))
        yield


def _is_shared(engine: AsyncEngine) -> bool:
    return engine.dialect.name == "postgresql"


@contextlib.contextmanager
def _start_errors() -> Iterator[None]:
    """Tell why a database cannot be served from as a StartError."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        why = sentence_of(error) if isinstance(error, SQLAlchemyError) else str(error)
        raise StartError(f"the database cannot be opened: {why}") from error
    except (SchemaDiffersError, UnsuitableDatabaseError) as error:
        raise StartError(f"the database cannot be used: {error}") from error


@contextlib.contextmanager
def _locked(database: str) -> Iterator[None]:
    """Keep other processes from serving from the same SQLite database."""
    file = database_file(database)
    if file is None:
        yield
        return
    lock = FileLock(Path(f"{file}.lock"))
    try:
        lock.acquire()
    except LockHeldError as error:
        raise StartError(f"another keypost-ca process uses the database: {error}") from error
    except OSError as error:
        raise StartError(f"the database cannot be opened: {error}") from error
    try:
        yield
    finally:
        lock.release()
