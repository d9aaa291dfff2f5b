"""What PostgreSQL does that SQLite does not: it gives up, makes wait, dies, comes back, and others write to it too."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.exc import IntegrityError

from keypost_services.ca import store_sql
from keypost_services.ca.database import open_store
from keypost_services.ca.engine import open_engine
from keypost_services.ca.store import (
    CodeUsedError,
    Identity,
    IdentityTakenError,
    KeyAlreadyKnownError,
    OneTimeCode,
    RevisionTakenError,
    StoreAwayError,
)
from keypost_services.ca.store_sql import SqlStore
from keypost_services.runtime.errors import StartError
from support.ca_changes import CHANGED, change, code_act, key, renewal
from support.ca_database import postgres_database
from support.postgres import running_postgres, shared_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from keypost_services.ca.store import Change
    from support.postgres import PostgresServer

HOLD_COUNTER = "UPDATE counters SET value = value"
ISSUER = "https://id.example.org"


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a database with tables."""
    with postgres_database() as made:
        yield made


def url_of(name: str, **settings: object) -> str:
    """Return the URL by which a CA serves from a database, with settings of PostgreSQL for its sessions."""
    options = " ".join(f"-c {setting}={value}" for setting, value in settings.items())
    return f"{shared_postgres().serving_url(name)}?options={quote(options)}"


@asynccontextmanager
async def opened(url: str, connections: int = 10) -> AsyncIterator[SqlStore]:
    engine = open_engine(url, connections)
    try:
        yield SqlStore(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def administrator(name: str, *, autocommit: bool = True) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    url = shared_postgres().administrators_url(name)
    async with await psycopg.AsyncConnection.connect(url, autocommit=autocommit) as connection:
        yield connection


UNTIL_WAITING = """
DO $$ BEGIN LOOP
EXIT WHEN %s = (
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock');
PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
END LOOP; END $$
"""


async def until_so_many_wait_for_a_lock(name: str, count: int) -> None:
    async with asyncio.timeout(30), administrator(name) as connection:
        await connection.execute((UNTIL_WAITING % count).encode())


async def outcomes_of(stores: list[SqlStore], changes: list[Change]) -> list[str]:
    """Return how changes ended that several replicas make at once."""
    made = (stores[place % len(stores)].apply(each) for place, each in enumerate(changes))
    return sorted(type(outcome).__name__ for outcome in await asyncio.gather(*made, return_exceptions=True))


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_of_what_replicas_do_at_once_one_wins_and_the_others_are_told(name: str, isolation: str) -> None:
    url = url_of(name, default_transaction_isolation=isolation.replace(" ", "\\ "))
    code = OneTimeCode(b"h" * 32, "eve", CHANGED)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(url)) for _ in range(3)]
        await stores[0].apply(change(key(1)))
        await stores[0].add_code(code, code_act(code))
        of_names = [f"user{number}" for number in range(6)]
        races = {
            RevisionTakenError: [renewal(number, replaced=1, revision=2) for number in range(10, 16)],
            KeyAlreadyKnownError: [change(key(20, name)) for name in of_names],
            CodeUsedError: [change(key(30 + n, f"u{n}"), code_hash=code.code_hash) for n in range(6)],
            IdentityTakenError: [
                change(key(40 + n, f"v{n}"), identity=Identity(f"v{n}", ISSUER, "s")) for n in range(6)
            ],
        }
        for loses, changes in races.items():
            assert await outcomes_of(stores, changes) == sorted([loses.__name__] * 5 + ["list"])
        first = [change(key(50 + n, "frank")) for n in range(6)]
        assert await outcomes_of(stores, first) == ["RevisionTakenError"] * 5 + ["list"]
        assert [event.sequence for event in await stores[1].list_events(0, 99)] == list(range(1, 7))


GIVE_UP = """
CREATE SEQUENCE attempts;
CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
IF nextval('attempts') <= %(times)s THEN RAISE EXCEPTION 'given up' USING ERRCODE = %(state)s; END IF;
RETURN NULL; END $$;
CREATE TRIGGER give_up AFTER INSERT ON audit_entries EXECUTE FUNCTION give_up()
"""


async def give_up(name: str, times: int, state: str) -> None:
    """Have the database give up so many transactions, at their last statement."""
    async with administrator(name) as connection:
        statement = GIVE_UP.replace("%(times)s", str(times)).replace("%(state)s", f"'{state}'")
        await connection.execute(statement.encode())


async def attempts(name: str) -> int:
    async with administrator(name) as connection:
        found = await (await connection.execute(b"SELECT last_value FROM attempts")).fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_what_the_database_gave_up_is_done_again_and_once(name: str, state: str) -> None:
    await give_up(name, 2, state)
    async with opened(url_of(name)) as store:
        await store.apply(change(key(1)))
        assert len(await store.list_events(0, 9)) == len(await store.list_audit_entries(0, 9)) == 1
    assert await attempts(name) == 3


async def test_what_it_gives_up_again_and_again_is_not_done(name: str) -> None:
    await give_up(name, 99, "40001")
    async with opened(url_of(name)) as store:
        with pytest.raises(StoreAwayError, match="too much is written at once"):
            await store.apply(change(key(1)))
        assert not await store.find_users(["alice"])
    assert await attempts(name) == 3


async def test_a_deadlock_with_a_stranger_is_survived(name: str) -> None:
    async with opened(url_of(name)) as store, administrator(name, autocommit=False) as stranger:
        await store.apply(change(key(1)))
        await stranger.execute(b"SET LOCAL deadlock_timeout = '60s'")
        await stranger.execute(HOLD_COUNTER.encode())
        renewing = asyncio.create_task(store.apply(renewal(2, replaced=1, revision=2)))
        await until_so_many_wait_for_a_lock(name, 1)
        # Each now waits for the other; the CA's transaction looks first, and is the one that is given up.
        await stranger.execute(b"UPDATE users SET create_time = create_time WHERE username = 'alice'")
        await stranger.commit()
        async with asyncio.timeout(30):
            await renewing
        assert (await store.find_users(["alice"]))["alice"].revision == 2


async def test_who_waits_too_long_is_told_and_readers_never_wait(name: str) -> None:
    async with opened(url_of(name, lock_timeout=200)) as store, administrator(name, autocommit=False) as stranger:
        await store.apply(change(key(1)))
        await stranger.execute(HOLD_COUNTER.encode())
        with pytest.raises(StoreAwayError) as refused:
            await store.apply(change(key(2, "bob")))
        assert (refused.value.reason, refused.value.retry_after_ms) == ("DATABASE_UNAVAILABLE", 500)
        assert (await store.find_users(["alice", "bob"])).keys() == {"alice"}
        await stranger.rollback()
        await store.apply(change(key(2, "bob")))
        assert await store.newest_sequence() == 2


async def test_a_replica_that_stops_in_the_middle_keeps_nobody_waiting_for_ever(name: str) -> None:
    url = url_of(name, idle_in_transaction_session_timeout=300)
    async with opened(url) as stopped, opened(url_of(name)) as store:
        async with stopped._writing_engine.connect() as connection:
            await connection.exec_driver_sql(HOLD_COUNTER)
            await store.apply(change(key(1)))
            await connection.invalidate()
        assert await store.newest_sequence() == 1


async def test_a_process_has_no_more_connections_than_it_may(name: str) -> None:
    patient = url_of(name, lock_timeout=60_000, statement_timeout=60_000)
    async with opened(patient, connections=2) as store, administrator(name, autocommit=False) as stranger:
        await stranger.execute(HOLD_COUNTER.encode())
        writing = [asyncio.create_task(store.apply(change(key(n, f"user{n}")))) for n in (1, 2)]
        await until_so_many_wait_for_a_lock(name, 2)
        store._engine.sync_engine.pool._timeout = 0.2  # type: ignore[attr-defined]
        with pytest.raises(StoreAwayError, match="does not answer in time"):
            await store.newest_sequence()
        await stranger.rollback()
        await asyncio.gather(*writing)
        assert await store.newest_sequence() == 2


async def test_every_session_is_bounded_and_sees_what_was_committed(name: str) -> None:
    wanted = {
        "statement_timeout": "5s",
        "lock_timeout": "4s",
        "idle_in_transaction_session_timeout": "5s",
        "transaction_isolation": "read committed",
        "application_name": "keypost-ca",
    }
    url = url_of(name, default_transaction_isolation="serializable")
    async with opened(url) as store, store._writing_engine.begin() as connection:
        found = {each: (await connection.exec_driver_sql(f"SHOW {each}")).scalar_one() for each in wanted}
    assert found == wanted


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that may be killed, frozen and set otherwise."""
    with running_postgres() as server:
        yield server


async def test_it_goes_on_when_the_server_is_back(own_server: PostgresServer) -> None:
    server = own_server
    with postgres_database(server) as name:
        async with opened(server.serving_url(name)) as store:
            await asyncio.gather(*(store.apply(change(key(number, f"user{number}"))) for number in range(1, 9)))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            # All connections of the pool are broken; nobody is told.
            found = await asyncio.gather(*(store.newest_sequence() for _ in range(8)))
            assert found == [8] * 8
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreAwayError):
                await store.newest_sequence()
            with pytest.raises(StoreAwayError):
                await store.apply(change(key(9, "user9")))
            await asyncio.to_thread(server.start)
            await store.apply(change(key(9, "user9")))
            assert [event.sequence for event in await store.list_events(0, 99)] == list(range(1, 10))


async def test_a_server_that_hangs_is_not_waited_for_without_end(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sql, "ANSWER_SECONDS", 2.0)
    server = own_server
    with postgres_database(server) as name:
        async with opened(server.serving_url(name)) as store:
            await store.apply(change(key(1)))
            server.freeze()
            try:
                async with asyncio.timeout(30):
                    with pytest.raises(StoreAwayError, match="does not answer in time"):
                        await store.apply(change(key(2, "bob")))
            finally:
                server.thaw()
            store._seconds = 30
            await store.apply(change(key(3, "carol")))
            assert (await store.list_events(0, 9))[-1].username == "carol"


async def test_what_is_answered_before_it_is_kept_is_not_served_from(name: str) -> None:
    with pytest.raises(StartError, match="synchronous_commit is off"):
        async with open_store(url_of(name, synchronous_commit="off")):
            pass


async def refused_after(server: PostgresServer, name: str, statement: sql.Composable) -> str:
    """Return why a CA does not serve from a database after a statement of the administrator."""
    server.administer(statement, sql.SQL("SELECT pg_reload_conf()"))
    async with asyncio.timeout(30):
        while True:
            try:
                async with open_store(server.serving_url(name)):
                    pass  # the server has not read its settings yet
            except StartError as error:
                return str(error)


async def test_a_server_that_a_power_cut_would_break_is_not_served_from(own_server: PostgresServer) -> None:
    with postgres_database(own_server) as name:
        for setting in ("fsync", "full_page_writes"):
            why = await refused_after(own_server, name, sql.SQL("ALTER SYSTEM SET {} = off").format(sql.SQL(setting)))
            assert f"{setting} is off: it must be on" in why
            own_server.administer(sql.SQL("ALTER SYSTEM RESET {}").format(sql.SQL(setting)))


async def test_no_error_shows_a_password_or_what_was_written(name: str) -> None:
    password = "a password that nobody sees"
    wrong = shared_postgres().url_of(name, "keypost_ca", password)
    told = []
    for url in (wrong, f"{wrong}?sslmode=nonsense", f"{wrong}?nonsense=1", f"{wrong}?port=1"):
        with pytest.raises(StartError) as refused:
            async with open_store(url):
                pass
        told.append(str(refused.value))
    told.append(repr(open_engine(wrong)))
    assert not [text for text in told if "password that" in text or quote(password) in text]
    assert "password authentication failed" in told[0]
    async with opened(url_of(name)) as store:
        await store.keep_secret("nonces", b"a secret of all processes")
        with pytest.raises(IntegrityError) as failed:
            async with store._writing_engine.begin() as connection:
                await connection.exec_driver_sql(
                    "INSERT INTO secrets VALUES (%(name)s, %(value)s)", {"name": "nonces", "value": b"another secret"}
                )
        assert "another secret" not in str(failed.value)
