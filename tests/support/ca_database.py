"""Databases of a CA for tests, on SQLite or on PostgreSQL, with tables."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from keypost_services.ca.engine import open_engine
from keypost_services.ca.migrate import migrate
from support.postgres import SERVING, shared_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.postgres import PostgresServer

KINDS = ("sqlite", "postgres")


async def bring_up_to_date(url: str, grant_to: str | None = None) -> None:
    """Have a database take all steps."""
    engine = open_engine(url)
    try:
        await migrate(engine, grant_to=grant_to)
    finally:
        await engine.dispose()


def migrated(url: str, grant_to: str | None = None) -> None:
    """Have a database take all steps; also where a loop is running."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, bring_up_to_date(url, grant_to)).result()


@functools.cache
def _template() -> str:
    server = shared_postgres()
    name = server.new_database()
    migrated(server.url_of(name), SERVING)
    return name


@contextlib.contextmanager
def postgres_database(server: PostgresServer | None = None) -> Iterator[str]:
    """Yield the name of a database with tables, owned by one role, served as another.

    Args:
        server: The server, if it is not the one that all tests share.
    """
    if server is None:
        server = shared_postgres()
        name = server.new_database(_template())
    else:
        name = server.new_database()
        migrated(server.url_of(name), SERVING)
    try:
        yield name
    finally:
        server.drop_database(name)


@contextlib.contextmanager
def ca_database(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a database with tables, as a CA serves from it.

    Args:
        kind: One of ``KINDS``.
        folder: Where an SQLite database goes.
    """
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'ca.db'}"
        migrated(url)
        yield url
        return
    with postgres_database() as name:
        yield shared_postgres().serving_url(name)
