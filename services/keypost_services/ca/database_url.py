"""What is said of the database: its URL, and how many connections there may be."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

CONNECTIONS = 10
"""How many connections a process has at most, to a database that processes share."""
_SQLITE = "sqlite:////var/lib/keypost/ca.db"
_POSTGRES = "postgresql://keypost_ca@db.example.org/keypost"


def check_database(url: str) -> str:
    """Return a database URL; raises ValueError if it is none, or of a database that this version cannot use."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415  # `serve --help` checks no URL
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError(f"must be a database URL, such as {_SQLITE} or {_POSTGRES}") from error
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise ValueError(f"must be of SQLite or PostgreSQL, such as {_SQLITE} or {_POSTGRES}")
    if kind == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        raise ValueError(f"must name a file, such as {_SQLITE}")
    if kind == "postgresql":
        _check_postgres(parsed)
    return url


def _check_postgres(url: URL) -> None:
    if not url.database:
        raise ValueError(f"must name a database, such as {_POSTGRES}")
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ValueError("must begin with postgresql://: there is one driver, psycopg")
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError("PostgreSQL needs a driver: install keypost[services,postgres]")
