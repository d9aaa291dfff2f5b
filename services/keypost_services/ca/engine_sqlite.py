"""SQLite: one process that serves, and commands beside it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

WRITES = "keypost_writes"
"""Execution option of connections that will write: SQLite then takes its write lock at the start."""

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000")


def database_file(url: str | URL) -> str | None:
    """Return the path of an SQLite database file, None for other databases."""
    parsed = make_url(url)
    return parsed.database if parsed.get_backend_name() == "sqlite" else None


def open_sqlite(url: URL) -> AsyncEngine:
    """Return an engine for an SQLite database."""
    if url.drivername == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
    # What is written may be a secret: neither a log nor an error shows it.
    engine = create_async_engine(url, hide_parameters=True)
    if (file := database_file(url)) is not None:
        _prepare(engine.sync_engine, file)
    return engine


def _prepare(engine: Engine, file: str) -> None:
    """Make SQLite's transactions real: begun when we say so, durable when they end."""

    @event.listens_for(engine, "do_connect")
    def _create(*_: object) -> None:
        _create_private(file)

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_private(file: str) -> None:
    """Make a file that only its owner can read, unless it is there.

    One that is there must not even be opened: closing it again would end the locks by which this process keeps others
    from taking the write-ahead log away (POSIX locks belong to the process, not to the descriptor).
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
