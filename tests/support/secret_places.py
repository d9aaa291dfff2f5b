"""Where a secret could have got to: what a running stack shows, and what lies on its disk."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis

from keypost_services.embedded.layout import SERVICES
from support.secret_scan import Place, files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keypost_services.embedded.postgres import Postgres
    from keypost_services.embedded.stack import Stack


class Monitor:
    """Writes down every command that Valkey is given, as its own MONITOR shows them."""

    def __init__(self, path: Path, password: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        # All of it, and not the last 128 commands alone.
        slow_log = "CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 100000"
        self._socket.sendall(f"AUTH {password}\r\n{slow_log}\r\nMONITOR\r\n".encode())
        self._answers = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(1 << 16):
            self._answers += data

    def end(self) -> bytes:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        return bytes(self._answers)


def valkey_places(url: str) -> Iterator[Place]:
    server = redis.Redis.from_url(url)
    try:
        keys = sorted(server.scan_iter(count=1000))
        dumps = [server.dump(key) or b"" for key in keys]
        contents = [repr(_read_key(server, key)).encode() for key in keys]
        yield Place("valkey: keys", b"\n".join(keys), b"alice")
        yield Place("valkey: values", b"\n".join(dumps), b"alice")
        yield Place("valkey: values, read", b"\n".join(contents), b"alice")
        yield Place("valkey: slow log", repr(server.slowlog_get(100_000)).encode(), b"FCALL")
        yield Place("valkey: clients", repr(server.client_list()).encode(), b"addr")
        yield Place("valkey: information", repr(server.info("everything")).encode(), b"redis_version")
    finally:
        server.close()


def _read_key(server: redis.Redis, key: bytes) -> Any:
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": server.get,
        b"hash": server.hgetall,
        b"stream": server.xrange,
        b"set": server.smembers,
        b"zset": lambda name: server.zrange(name, 0, -1, withscores=True),
        b"list": lambda name: server.lrange(name, 0, -1),
        b"none": lambda _name: None,  # it expired since the keys were listed
    }
    return readers[server.type(key)](key)  # type: ignore[index]


def postgres_places(server: Postgres) -> Iterator[Place]:
    """Yield the files of a PostgreSQL and its write-ahead log, all that it holds written into them before."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    for folder in ("base", "pg_wal"):
        files = list(files_below(server.data / folder, lambda _path: b""))
        yield Place(f"postgres: {folder}", b"\0".join(file.content for file in files), b"alice")


def metrics(stack: Stack) -> Iterator[Place]:
    for service in SERVICES:
        port = json.loads(stack.layout.ready_file(service).read_text())["metrics_port"]
        for page, marker in (("metrics", b"keypost_calls_total"), ("ready", b"ready")):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:  # our own
                yield Place(f"{service}: /{page}", answer.read(), marker)


def processes(stack: Stack) -> Iterator[Place]:
    for part in stack.parts:
        process = Path("/proc") / str(part.pid)
        if process.exists():  # Linux
            program = b"valkey" if part.name == "valkey" else b"keypost_services"
            yield Place(f"{part.name}: command", (process / "cmdline").read_bytes(), program)
            yield Place(f"{part.name}: environment", (process / "environ").read_bytes())


def marker(path: Path) -> bytes:
    """Return something harmless that a file holds if it is what its name says."""
    markers = {"keystore.sqlite3": b"SQLite format", "ca.db": b"SQLite format", ".key": b"PRIVATE KEY"}
    if path.parent.name == "logs":
        return b"alice" if path.name in {"directory.log", "delivery.log"} else b"/keypost.ca.v1"
    if path.parent.name == "backups":
        return b"keypost backup"
    if path.parent.name == "broken":
        return b"no profile"
    return next((marker for end, marker in markers.items() if path.name.endswith(end)), b"")
