"""Replicas hear from PostgreSQL of what others change: at once as a rule, and never later than the next look."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from keypost_services.ca.after_restore import after_restore
from keypost_services.ca.database import open_store
from keypost_services.ca.database_watch import DatabaseWatch
from keypost_services.ca.engine import open_engine
from keypost_services.ca.events import EventFeed
from keypost_services.ca.store_sql import SqlStore
from keypost_services.runtime.errors import StartError
from support.ca_changes import change, key
from support.ca_database import postgres_database
from support.postgres import running_postgres, shared_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from keypost_services.ca.store import Event

HOUR = 3_600.0


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a database with tables."""
    with postgres_database() as made:
        yield made


class Replica:
    """A store, its feed, and the watch that wakes it.

    Attributes:
        states: What the watch said of the database, in order: None where it listened.
    """

    def __init__(self, url: str, store: SqlStore, poll_seconds: float) -> None:
        self.store = store
        self.feed = EventFeed(store, poll_seconds=poll_seconds, heartbeat_seconds=HOUR)
        self.states: list[str | None] = []
        self._changed = asyncio.Event()
        self.watch = DatabaseWatch(url, self.feed.announce, self._on_change, lambda: 0.5, quiet_seconds=0.2)

    async def until_listening(self) -> None:
        """Wait until the watch listens, and forget what it said before."""
        await self._until(lambda: None in self.states)

    async def until_away(self, why: str) -> None:
        """Wait until the watch says that the database is not there, and why; forget what it said before."""
        await self._until(lambda: any(why in state for state in self.states if state is not None))

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()
        self.states = []

    def _on_change(self, state: str | None) -> None:
        self.states.append(state)
        self._changed.set()


@asynccontextmanager
async def replica(url: str, poll_seconds: float = HOUR) -> AsyncIterator[Replica]:
    engine = open_engine(url)
    opened = Replica(url, SqlStore(engine), poll_seconds)
    running = asyncio.create_task(opened.watch.run())
    try:
        await opened.until_listening()
        yield opened
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await engine.dispose()


async def next_events(events: AsyncIterator[Any]) -> list[Event]:
    async with asyncio.timeout(30):
        while True:
            if found := (await anext(events)).events:
                return list(found)


async def administer(name: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        shared_postgres().administrators_url(name), autocommit=True
    ) as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def test_a_change_by_another_replica_is_told_at_once(name: str) -> None:
    url = shared_postgres().serving_url(name)
    async with replica(url) as here, replica(url) as there:
        events = here.feed.watch(0)
        assert not (await anext(events)).events
        for number, username in enumerate(["alice", "bob", "carol"], start=1):
            await there.store.apply(change(key(number, username)))
            assert [event.username for event in await next_events(events)] == [username]


async def test_who_restores_is_alone(name: str) -> None:
    """A database is made fit to serve while nobody serves from it; who starts meanwhile does not, or waits."""
    url = shared_postgres().serving_url(name)
    async with replica(url):
        with pytest.raises(StartError, match="another keypost-ca process serves from it"):
            await after_restore(url, [], 1)
    async with open_store(url, alone=True):
        with pytest.raises(StartError, match="after-restore` is at work"):
            async with open_store(url):
                pass
        waiting = Replica(url, SqlStore(open_engine(url)), HOUR)
        running = asyncio.create_task(waiting.watch.run())
        await waiting.until_away("after-restore` is at work")
    await waiting.until_listening()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (await after_restore(url, [], 1)).entries_redone == 0


async def test_who_refuses_tells_nothing(name: str) -> None:
    """A notification is part of the transaction: what was rolled back is not announced."""
    url = shared_postgres().serving_url(name)
    async with replica(url) as here:
        announced: asyncio.Queue[None] = asyncio.Queue()
        here.watch._announce = lambda: announced.put_nowait(None)
        async with here.store._writing_engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO key_events VALUES (1, 'alice', 1, 1, '', '', 0)")
            await connection.rollback()
        await here.store.apply(change(key(1)))
        async with asyncio.timeout(30):
            await announced.get()
        # Notifications come in the order of commits: one of the other transaction would have been first.
        assert announced.empty()


async def test_a_notification_that_is_lost_delays_and_loses_nothing(name: str) -> None:
    await administer(name, "ALTER TABLE key_events DISABLE TRIGGER key_events_insert")
    url = shared_postgres().serving_url(name)
    async with replica(url, poll_seconds=0.05) as here, replica(url) as there:
        events = here.feed.watch(0)
        await anext(events)
        await there.store.apply(change(key(1)))
        assert [event.sequence for event in await next_events(events)] == [1]


async def test_a_connection_that_is_dropped_is_made_anew_and_what_was_missed_is_told(name: str) -> None:
    url = shared_postgres().serving_url(name)
    async with replica(url) as here:
        events = here.feed.watch(0)
        await anext(events)
        # Nobody can connect, so that what happens meanwhile is heard by no one.
        await administer(name, f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        dropped = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
        )
        await administer(name, dropped)
        await here.until_away("")
        await here.store.apply(change(key(1)))
        await administer(name, f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        await here.until_listening()
        assert [event.sequence for event in await next_events(events)] == [1]


async def test_a_server_that_dies_or_hangs_is_noticed_and_listened_to_again() -> None:
    with running_postgres() as server, postgres_database(server) as name:
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(replica(server.serving_url(name)))
            await asyncio.to_thread(server.kill)
            await here.until_away("Connection refused")
            await asyncio.to_thread(server.start)
            await here.until_listening()
            server.freeze()
            try:
                await here.until_away("does not answer in time")
            finally:
                server.thaw()
            await here.until_listening()
