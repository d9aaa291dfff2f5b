"""Hears from PostgreSQL of key events that other processes made, and says whether it is there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from keypost_services.ca.engine_postgres import SERVING_STATEMENT, connect_arguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Connection = psycopg.AsyncConnection[Any]

CHANNEL = "keypost_key_events"
"""Notified by the database itself, in the transaction that adds an event."""
QUIET_SECONDS = 5.0
"""After so long without news the server is asked whether it is there."""
ANSWER_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class _RestoringError(Exception):
    """Somebody makes the database fit to serve; until then nobody may."""


class DatabaseWatch:
    """Listens over a connection of its own, and again whenever that breaks; it holds the lock of those who serve.

    A notification that is lost delays: the feed of events asks the database anyway, every second.

    Args:
        database: URL of a PostgreSQL database.
        announce: Called when there may be new events.
        on_change: Called with None when it listens, and with a sentence when the connection broke.
        jitter: Returns a number from 0 to 1, so that replicas do not return in step.
        quiet_seconds: After so long without news the server is asked whether it is there.
    """

    def __init__(
        self,
        database: str,
        announce: Callable[[], None],
        on_change: Callable[[str | None], None],
        jitter: Callable[[], float],
        *,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._arguments = connect_arguments(database)
        self._announce = announce
        self._on_change = on_change
        self._jitter = jitter
        self._quiet_seconds = quiet_seconds
        self._listens = False

    async def run(self) -> None:
        """Listen, and listen again; never returns."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._listen()
            except (psycopg.Error, TimeoutError, OSError, _RestoringError) as error:
                why = next(iter(str(error).splitlines()), "") or "it does not answer in time"
            pause = FIRST_PAUSE_SECONDS if self._listens else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._listens = False
            self._on_change(f"the database is not there: {why}")
            await asyncio.sleep(pause * (0.5 + self._jitter() / 2))

    async def _listen(self) -> None:
        async with self._connected() as connection:
            async with asyncio.timeout(ANSWER_SECONDS):
                # Here, since this connection lasts as long as the process: nobody restores while it does.
                if (await (await connection.execute(SERVING_STATEMENT.encode())).fetchone()) != (True,):
                    raise _RestoringError("`keypost-ca after-restore` is at work on it")
                await connection.execute(f"LISTEN {CHANNEL}".encode())
            self._listens = True
            self._on_change(None)
            # Whatever was told while nobody listened.
            self._announce()
            while True:
                await self._hear(connection)

    async def _hear(self, connection: Connection) -> None:
        """Announce the next news; without any, make sure that the server is there."""
        heard = False
        async for _ in connection.notifies(timeout=self._quiet_seconds, stop_after=1):
            heard = True
        if heard:
            self._announce()
            return
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.execute(b"SELECT 1")

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        connection = await psycopg.AsyncConnection.connect(**self._arguments, autocommit=True)
        try:
            yield connection
        finally:
            # Not by `async with`: that would ask a server that may not answer to roll back.
            await connection.close()
