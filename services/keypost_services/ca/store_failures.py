"""What a database says when it fails, in the words of the port ``Store``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from keypost_services.ca.store import StoreAwayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GIVEN_UP = {"40001", "40P01"}
"""PostgreSQL gave the transaction up for another one's sake: serialisation failure, deadlock."""
_AWAY_CLASSES = {"08", "53", "57", "58"}
"""Connection, resources, the operator's doing, the system's."""
_AWAY = {"25006", "25P03", "25P04", "55P03"}
"""Read-only, idle too long, took too long, waited for a lock too long."""
_SQLITE_AWAY = ("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED", "SQLITE_READONLY")


class TransactionGivenUpError(StoreAwayError):
    """The database gave a transaction up for the sake of another one: it may be tried again at once."""


@contextlib.asynccontextmanager
async def failures_named(seconds: float | None) -> AsyncIterator[None]:
    """Bound what is done with the database, and name what goes wrong with the database itself.

    Args:
        seconds: How long it may take; None: as long as it takes.

    Raises:
        TransactionGivenUpError: The same may be tried again at once.
        StoreAwayError: The database is not there, or does not do what it should in time.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, PoolTimeoutError) as error:
        raise StoreAwayError(away_because("it does not answer in time")) from error
    except DBAPIError as error:
        if (named := _named(error)) is None:
            raise
        raise named from error


def away_because(why: str) -> str:
    """Return the sentence that callers are told."""
    return f"the CA's database is not there: {why}; try again"


def sentence_of(error: SQLAlchemyError) -> str:
    """Return what a database said, in one line, for its operator; never a password or a value."""
    said = str(error.orig if isinstance(error, DBAPIError) and error.orig is not None else error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _named(error: DBAPIError) -> StoreAwayError | None:
    state = getattr(error.orig, "sqlstate", None)
    if state in _GIVEN_UP:
        return TransactionGivenUpError(away_because("too much is written at once"))
    if state is not None:
        away = state in _AWAY or state[:2] in _AWAY_CLASSES
    elif (name := getattr(error.orig, "sqlite_errorname", None)) is not None:
        away = name.startswith(_SQLITE_AWAY)
    else:
        # Before there is a connection, and when it breaks, PostgreSQL's driver has no code.
        away = error.connection_invalidated or isinstance(error, OperationalError)
    return StoreAwayError(away_because("it refuses now, or the connection to it broke")) if away else None
