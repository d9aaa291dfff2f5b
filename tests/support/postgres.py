"""A real PostgreSQL for tests, on a free port of the loopback interface, and databases on it.

::

    with running_postgres() as server:          # one of the test's own, to be killed, frozen, started again
        url = server.new_database()

    url = shared_postgres().new_database()      # one server for all tests of this process
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from keypost_services.embedded.postgres import ADMINISTRATOR, Postgres, find_programs
from keypost_services.embedded.processes import StackFailedError
from support.valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost_services.embedded.processes import Process

START_SECONDS = 90.0
START_ATTEMPTS = 5
OWNER, OWNER_PASSWORD = "keypost_owner", "owner's password"
"""The role that owns the databases of tests, and so their tables."""
SERVING, SERVING_PASSWORD = "keypost_ca", "ca's password"
"""The role that a CA serves as: it may do nothing but what it is granted."""


class PostgresServer:
    """One server; it may be killed and started again on the same port and folder.

    Args:
        folder: Where it may write.
        options: Settings of ``postgresql.conf``.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        self._numbers = itertools.count(1)
        # Not to be looked through and flushed one by one after each kill.
        options = {"recovery_init_sync_method": "syncfs"} | options
        self._postgres = Postgres(folder, port=free_port(), options=options, sync=False)
        self._process: Process | None = None

    @property
    def port(self) -> int:
        """Its TCP port."""
        assert self._postgres.port is not None
        return self._postgres.port

    def url_of(self, database: str, role: str = OWNER, password: str = OWNER_PASSWORD) -> str:
        """Return the URL by which a role connects to a database."""
        return self._postgres.url_of(database, role, password)

    @property
    def administrators_environment(self) -> dict[str, str]:
        """The variables by which PostgreSQL's own programs connect as the administrator, and find each other."""
        password = make_url(self.administrators_url()).password
        programs = os.pathsep.join((str(find_programs()), os.environ["PATH"]))
        fixed = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": ADMINISTRATOR}
        return {**fixed, "PGPASSWORD": str(password), "PATH": programs}

    def serving_url(self, database: str) -> str:
        """Return the URL by which a CA serves from a database."""
        return self.url_of(database, SERVING, SERVING_PASSWORD)

    def administrators_url(self, database: str = "postgres") -> str:
        """Return the URL by which the administrator connects to a database."""
        return self._postgres.url_of(database)

    def administer(self, *statements: sql.Composable, database: str = "postgres") -> None:
        """Have the administrator run statements, each by itself."""
        with psycopg.connect(self.administrators_url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.as_bytes(connection))

    def new_database(self, template: str = "template1") -> str:
        """Make a database that the owner owns; return its name.

        Args:
            template: The database that it is a copy of; nobody may be connected to that.
        """
        name = f"test_{next(self._numbers)}"
        statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
        self.administer(statement.format(sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Start the server and return once it answers.

        Raises:
            StackFailedError: It does not.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._process = self._postgres.start()
            try:
                self._postgres.wait(START_SECONDS)
            except StackFailedError:
                # Processes of one that was killed may still be at its memory.
                if self._process.is_running() or time.monotonic() > deadline:
                    raise
                continue
            return

    def make_roles(self) -> None:
        """Make the roles that own and serve the databases."""
        role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        for name, password in ((OWNER, OWNER_PASSWORD), (SERVING, SERVING_PASSWORD)):
            self.administer(role.format(sql.Identifier(name), sql.Literal(password)))

    def stop(self) -> None:
        """End the server in good order."""
        if self._process is not None:
            self.thaw()
            self._process.ask_to_stop()
            self._process.wait_stopped(START_SECONDS)

    def kill(self) -> None:
        """End the server and all its processes as a power cut would."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait_stopped(START_SECONDS)

    def freeze(self) -> None:
        """Let the server hang: connections stand, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End a freeze."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Remove all its files, after it has stopped."""
        self._postgres.remove()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self._process.is_running():
            return
        # The first one starts all others: signalled first, it starts no more.
        os.kill(self._process.pid, number)
        for pid in _children_of(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def running_postgres(*, roles: bool = True, **options: str) -> Iterator[PostgresServer]:
    """Run a server of its own, and remove it afterwards.

    Args:
        roles: Whether it has the two roles.
        options: Settings of ``postgresql.conf``.
    """
    server = _started(options)
    try:
        if roles:
            server.make_roles()
        yield server
    finally:
        server.stop()
        server.remove()


@functools.cache
def shared_postgres() -> PostgresServer:
    """Return the server that all tests of this process share; it ends with the process."""
    server = _started({})
    server.make_roles()
    atexit.register(server.remove)
    atexit.register(server.stop)
    return server


def _started(options: dict[str, str]) -> PostgresServer:
    # Between finding a free port and binding it somebody else may take it.
    for attempts_left in reversed(range(START_ATTEMPTS)):
        server = PostgresServer(Path(tempfile.mkdtemp(prefix="keypost-postgres-")), **options)
        try:
            server.start()
        except StackFailedError as error:
            server.remove()
            if not attempts_left or "in use" not in str(error):
                raise
            continue
        return server
    raise AssertionError


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
