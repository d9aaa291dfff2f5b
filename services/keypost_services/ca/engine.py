"""Opens the database; what is particular to one kind of it is in ``engine_sqlite`` and ``engine_postgres``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from keypost_services.ca.database_url import CONNECTIONS
from keypost_services.ca.engine_postgres import is_postgres, open_postgres
from keypost_services.ca.engine_sqlite import WRITES, database_file, open_sqlite

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["CONNECTIONS", "WRITES", "database_file", "open_engine"]


def open_engine(url: str, connections: int = CONNECTIONS) -> AsyncEngine:
    """Return an engine for a database URL; connects only when it is first used.

    Args:
        url: Such as ``sqlite:///folder/ca.db`` or ``postgresql://name@host/database``; the driver is added to it.
        connections: How many connections there may be at once, to PostgreSQL.
    """
    parsed = make_url(url)
    return open_postgres(parsed, connections) if is_postgres(parsed) else open_sqlite(parsed)
