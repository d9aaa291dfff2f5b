"""The tables on PostgreSQL: made once, however many processes make them; and what each role may do with them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors, sql
from typer.testing import CliRunner

from keypost_services.ca.command_line import app
from keypost_services.ca.database import open_store
from keypost_services.ca.engine import open_engine
from keypost_services.ca.grants import GRANTS
from keypost_services.ca.migrate import expected_revision, migrate
from keypost_services.ca.tables import metadata
from keypost_services.runtime.errors import StartError
from support.ca_changes import change, key
from support.ca_database import bring_up_to_date, postgres_database
from support.postgres import SERVING, shared_postgres

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection
    from typer.testing import Result

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
PROCESSES = 4
UNTIL_ALL_WAIT = """
DO $$ BEGIN LOOP
EXIT WHEN (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted) = 4;
PERFORM pg_sleep(0.05);
END LOOP; END $$
"""
ENTRY = "'5', 'enrolled', 'sign_in', 'open', 'alice', 'a', '', 1, 0, '', '', '', ''"
"""An entry of the audit log without its number."""


@pytest.fixture
def empty() -> Iterator[str]:
    """The name of a database without tables."""
    server = shared_postgres()
    name = server.new_database()
    yield name
    server.drop_database(name)


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a database with tables."""
    with postgres_database() as made:
        yield made


@pytest.fixture(scope="module")
def untouched() -> Iterator[str]:
    """The name of a database with one entry in its audit log, which no test can change."""
    with postgres_database() as made:
        execute(shared_postgres().serving_url(made), f"INSERT INTO audit_entries SELECT 1, {ENTRY}")
        yield made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_the_steps_lead_to_the_tables(empty: str) -> None:
    """Also if the operator made the index of a large database beforehand, as docs/operations.md says."""
    engine = open_engine(shared_postgres().url_of(empty))
    assert await migrate(engine) == expected_revision()
    (statement,) = (line for line in OPERATIONS.read_text().splitlines() if line.startswith("CREATE INDEX"))
    with psycopg.connect(shared_postgres().url_of(empty), autocommit=True) as operator:
        operator.execute("UPDATE alembic_version SET version_num = '0003'")
        operator.execute("DROP INDEX ix_device_keys_expire_time_state")
        operator.execute(statement.encode())
    assert await migrate(engine) == expected_revision()

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


def test_names_are_compared_by_their_bytes_in_every_column(name: str) -> None:
    query = (
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type IN ('text', 'character varying') AND collation_name IS DISTINCT FROM 'C' "
        "AND table_name != 'alembic_version'"
    )
    assert rows(shared_postgres().administrators_url(name), query) == []


async def start_migrating(url: str) -> Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "KEYPOST_CA_DATABASE": url}
    command = (sys.executable, "-m", "keypost_services.ca", "migrate", "--json")
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)


async def test_processes_that_start_together_take_the_steps_once(empty: str) -> None:
    server = shared_postgres()
    async with await psycopg.AsyncConnection.connect(server.administrators_url(empty)) as holder:
        # Whoever has this lock keeps the others from beginning: so they all begin at once, with nothing done.
        await holder.execute(b"SELECT pg_advisory_xact_lock(5407208519284610053)")
        processes = [await start_migrating(server.url_of(empty)) for _ in range(PROCESSES)]
        async with asyncio.timeout(60):
            await holder.execute(UNTIL_ALL_WAIT.encode())
            await holder.commit()
            ended = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0] * PROCESSES, ended
    assert [json.loads(out) for out, _ in ended] == [{"step": expected_revision()}] * PROCESSES
    assert rows(server.url_of(empty), "SELECT name, value FROM counters") == [("key_events", 0)]


async def test_tables_of_a_newer_version_are_left_alone(name: str) -> None:
    server = shared_postgres()
    execute(server.url_of(name), "UPDATE alembic_version SET version_num = '9999'")
    for url in (server.url_of(name), server.serving_url(name)):
        with pytest.raises(StartError, match="at step 9999, which a newer version has taken: this one knows 0004"):
            async with open_store(url):
                pass
    listed = await asyncio.to_thread(run, "audit", "list", "--database", server.serving_url(name))
    assert (listed.exit_code, "which a newer version has taken" in listed.stderr) == (2, True)


async def test_who_may_only_serve_is_told_who_takes_the_steps(empty: str) -> None:
    server = shared_postgres()
    with pytest.raises(StartError, match="as the role that owns the tables"):
        async with open_store(server.serving_url(empty)):
            pass
    await bring_up_to_date(server.url_of(empty), SERVING)
    async with open_store(server.serving_url(empty)) as store:
        await store.apply(change(key(1)))


def test_who_owns_nothing_is_told_so_when_it_grants(name: str) -> None:
    server = shared_postgres()
    result = run("migrate", "--database", server.serving_url(name), "--grant", SERVING)
    assert result.exit_code == 2
    assert "may not grant: run `keypost-ca migrate --grant` as that role" in result.stderr
    # Nothing was taken from whom it names either.
    assert rows(server.serving_url(name), "SELECT count(*) FROM users") == [(0,)]
    assert run("migrate", "--database", server.administrators_url(name), "--grant", SERVING).exit_code == 0


def test_every_table_has_its_grants(name: str) -> None:
    assert GRANTS.keys() == metadata.tables.keys() | {"alembic_version"}
    query = (
        "SELECT table_name, string_agg(privilege_type, ', ') "
        "FROM information_schema.role_table_grants WHERE grantee = 'keypost_ca' GROUP BY table_name"
    )
    granted = dict(rows(shared_postgres().administrators_url(name), query))
    assert {table: set(found.split(", ")) for table, found in granted.items()} == {
        table: set(privileges.split(", ")) for table, privileges in GRANTS.items()
    }


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in GRANTS),
        *(f"TRUNCATE {table}" for table in GRANTS),
        "UPDATE audit_entries SET actor = 'nobody'",
        "UPDATE key_events SET username = 'nobody'",
        "UPDATE identities SET subject = 'mine'",
        "UPDATE secrets SET value = 'known'",
        "INSERT INTO counters VALUES ('mine', 0)",
        "ALTER TABLE audit_entries DISABLE TRIGGER USER",
        "DROP TABLE audit_entries",
        "CREATE TABLE mine (n int)",
        "SET session_replication_role = replica",
    ],
)
def test_who_serves_may_do_no_more_than_a_ca_does(untouched: str, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        execute(shared_postgres().serving_url(untouched), statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET actor = 'nobody'",
        "UPDATE audit_entries SET actor = 'nobody' WHERE false",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        f"INSERT INTO audit_entries SELECT 3, {ENTRY}",
        f"INSERT INTO audit_entries SELECT 1, {ENTRY}",
        f"INSERT INTO audit_entries SELECT 0, {ENTRY}",
        f"INSERT INTO audit_entries VALUES (2, {ENTRY}), (4, {ENTRY})",
        f"INSERT INTO audit_entries SELECT 1, {ENTRY} ON CONFLICT (sequence) DO UPDATE SET actor = 'nobody'",
        # A table of the same name that is found first.
        f"CREATE TEMP TABLE audit_entries AS SELECT 7 AS sequence; INSERT INTO public.audit_entries SELECT 8, {ENTRY}",
    ],
)
@pytest.mark.parametrize("who", ["owner", "administrator", "administrator as a replica"])
def test_the_database_refuses_to_touch_the_audit_log(untouched: str, who: str, statement: str) -> None:
    server = shared_postgres()
    url = server.url_of(untouched) if who == "owner" else server.administrators_url(untouched)
    role = ["SET session_replication_role = replica"] if "replica" in who else []
    with pytest.raises(errors.RestrictViolation, match="append-only"):
        execute(url, *role, *statement.split("; "))
    assert rows(url, "SELECT sequence, actor FROM audit_entries") == [(1, "open")]


def test_the_next_entries_are_added(name: str) -> None:
    url = shared_postgres().serving_url(name)
    execute(
        url,
        f"INSERT INTO audit_entries VALUES (1, {ENTRY}), (2, {ENTRY})",
        f"INSERT INTO audit_entries SELECT 3, {ENTRY}",
    )
    assert rows(url, "SELECT sequence FROM audit_entries ORDER BY 1") == [(1,), (2,), (3,)]


async def entered(name: str) -> str:
    """Enter three changes in the audit log; return its head."""
    url = shared_postgres().serving_url(name)
    async with open_store(url) as store:
        for number, username in enumerate(["alice", "bob", "mallory"], start=1):
            await store.apply(change(key(number, username)))
        return str(await store.audit_head())


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE audit_entries SET actor = 'nobody' WHERE username = 'bob'", "entry 2 is not what was written"),
        ("DELETE FROM audit_entries WHERE username = 'bob'", "entry 2 is not in its place"),
        ("DELETE FROM audit_entries WHERE username = 'mallory'", "the log ends with entry 2"),
    ],
)
async def test_who_rules_the_database_is_found_out(name: str, statement: str, why: str) -> None:
    url = shared_postgres().serving_url(name)
    head = await entered(name)
    verify = ("audit", "verify", "--database", url, "--head", head)
    assert (await asyncio.to_thread(run, *verify)).exit_code == 0
    execute(shared_postgres().url_of(name), "ALTER TABLE audit_entries DISABLE TRIGGER USER", statement)
    result = await asyncio.to_thread(run, *verify)
    assert (result.exit_code, why in result.stderr) == (1, True), result.stderr


def test_a_role_is_granted_what_it_needs_whatever_it_is_called(name: str) -> None:
    server = shared_postgres()
    role = 'odd"; DROP TABLE users; --'
    server.administer(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    try:
        result = run("migrate", "--database", server.url_of(name), "--grant", role)
        assert result.exit_code == 0, result.stderr
        query = "SELECT has_table_privilege(oid, 'users', 'UPDATE') FROM pg_roles WHERE rolname LIKE 'odd%'"
        assert rows(server.url_of(name), query) == [(True,)]
        unknown = run("migrate", "--database", server.url_of(name), "--grant", "nobody_here")
        assert (unknown.exit_code, 'role "nobody_here" does not exist' in unknown.stderr) == (2, True)
    finally:
        server.administer(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)), database=name)
        server.administer(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
