"""PostgreSQL: several processes that serve from one database.

No wait is without end: not for a connection, a statement, a lock, or a transaction that somebody began and left.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_DRIVER = "postgresql+psycopg"
POOL_SECONDS = 5.0
"""How long a call waits for a free connection."""
ANSWER_SECONDS = 10.0
"""How long one transaction may take, as this end sees it: longer than the server would let it."""
_RECYCLE_SECONDS = 1_800
# Milliseconds. The last one is for a replica that is stopped while it holds the row that all writers need.
_LIMITS = {"statement_timeout": 5_000, "lock_timeout": 4_000, "idle_in_transaction_session_timeout": 5_000}
_CONNECT = {
    "connect_timeout": "5",
    "fallback_application_name": "keypost-ca",
    # A host that is gone without a word is noticed within some 15 seconds.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
_MIGRATIONS_LOCK = 5_407_208_519_284_610_053
"""Any number, always the same: who takes the database's next steps holds the advisory lock of this number."""
_SERVING_LOCK = 5_407_208_519_284_610_054
"""Another such number: who serves holds its lock together with others, who restores holds it alone."""
SERVING_STATEMENT = f"SELECT pg_try_advisory_lock_shared({_SERVING_LOCK})"
"""Takes the lock of those who serve until the connection ends; false: somebody restores."""
_REQUIRED = {"fsync": "on", "full_page_writes": "on", "server_encoding": "UTF8"}


class UnsuitableDatabaseError(Exception):
    """The server is set so that it may lose what it has confirmed, or takes no changes."""


def is_postgres(url: URL) -> bool:
    """Return whether a URL is of a PostgreSQL database."""
    return url.get_backend_name() == "postgresql"


def open_postgres(url: URL, connections: int) -> AsyncEngine:
    """Return an engine for a PostgreSQL database.

    Args:
        url: Its parameters are those of libpq (``sslmode``, ``passfile``, ``target_session_attrs`` …), and go before
            the ones here.
        connections: How many there may be at once.
    """
    return create_async_engine(
        url.set(drivername=_DRIVER),
        connect_args=_bounds_of(url),
        # Each statement sees what others have committed before it, also after it waited for them.
        isolation_level="READ COMMITTED",
        # What is written may be a secret: neither a log nor an error shows it.
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_SECONDS,
    )


def connect_arguments(url: str) -> dict[str, Any]:
    """Return by what arguments the driver itself connects to a database; they hold the password."""
    parsed = make_url(url).set(drivername=_DRIVER)
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    return {**arguments, **_bounds_of(parsed)}


async def lock_migrations(connection: AsyncConnection) -> None:
    """Wait until no other process takes steps, and keep others from it until the transaction ends."""
    await connection.execute(text("".join(f"SET LOCAL {name} = 0;" for name in _LIMITS)))
    await connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATIONS_LOCK})


async def check_nobody_restores(engine: AsyncEngine) -> None:
    """Check that nobody makes a restored database fit to serve just now.

    Raises:
        UnsuitableDatabaseError: Somebody does.
    """
    async with engine.begin() as connection:
        statement = text("SELECT pg_try_advisory_xact_lock_shared(:number)")
        if not (await connection.execute(statement, {"number": _SERVING_LOCK})).scalar_one():
            raise UnsuitableDatabaseError("`keypost-ca after-restore` is at work on it")


@contextlib.asynccontextmanager
async def alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """Keep others from serving as long as the context lasts.

    Raises:
        UnsuitableDatabaseError: Somebody serves.
    """
    # A connection of its own: the lock is its, and goes with it.
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        statement = text("SELECT pg_try_advisory_lock(:number)")
        if not (await connection.execute(statement, {"number": _SERVING_LOCK})).scalar_one():
            raise UnsuitableDatabaseError("another keypost-ca process serves from it: stop all of them")
        try:
            yield
        finally:
            await connection.invalidate()


async def check_suitable(engine: AsyncEngine) -> None:
    """Check that the server keeps what it confirms, and takes changes.

    Raises:
        UnsuitableDatabaseError: It does not.
    """
    async with engine.connect() as connection:
        for name, value in _REQUIRED.items():
            if (found := await _setting(connection, name)) != value:
                raise UnsuitableDatabaseError(f"{name} is {found}: it must be {value}")
        if await _setting(connection, "synchronous_commit") == "off":
            raise UnsuitableDatabaseError("synchronous_commit is off: what was answered would be lost in a crash")
        if (await connection.execute(text("SELECT pg_is_in_recovery()"))).scalar_one():
            raise UnsuitableDatabaseError("the server is a standby: name the primary, or set target_session_attrs")


async def _setting(connection: AsyncConnection, name: str) -> str:
    found = await connection.execute(text("SELECT current_setting(:name)"), {"name": name})
    return str(found.scalar_one())


def _bounds_of(url: URL) -> dict[str, str]:
    given = url.query.get("options", "")
    options = " ".join(f"-c {name}={value}" for name, value in _LIMITS.items())
    arguments = {name: value for name, value in _CONNECT.items() if name not in url.query}
    # The last one of a name counts.
    return arguments | {"options": f"{options} {given if isinstance(given, str) else ' '.join(given)}".strip()}
