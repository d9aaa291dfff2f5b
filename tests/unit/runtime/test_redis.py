"""Whoever waits for Redis can be cancelled: each client's connections see to it, and no client is made elsewhere."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio.connection import AbstractConnection

import keypost_services
from keypost_services.runtime.redis import redis_client

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = Path(next(iter(keypost_services.__path__)))
MAKERS = {"runtime/redis.py", "embedded/valkey.py", "embedded/valkey_cluster.py"}
"""The one place where a service's clients come from; and the embedded stack's blocking looks at its servers."""
HARMLESS = {"redis.exceptions", "redis.crc"}


class Sending:
    """Stands for redis-py where it sends: a cancellation that arrives meanwhile is swallowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Event()
        self.disconnected = False

        async def send(*_: Any) -> None:
            self.begun.set()
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                return

        async def disconnect(*_: Any, **__: Any) -> None:
            self.disconnected = True

        monkeypatch.setattr(AbstractConnection, "send_packed_command", send)
        monkeypatch.setattr(AbstractConnection, "disconnect", disconnect)


def connection_to(url: str) -> AbstractConnection:
    connection: AbstractConnection = redis_client(url).connection_pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


URLS = ["redis://127.0.0.1", "rediss://127.0.0.1", "unix:///nowhere"]


@pytest.mark.parametrize("url", URLS)
async def test_a_swallowed_cancellation_counts(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    sending = Sending(monkeypatch)
    task = asyncio.create_task(connection_to(url).send_command("PING"))
    async with asyncio.timeout(10):
        await sending.begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert sending.disconnected


async def test_what_cleans_up_after_a_cancellation_may_send(monkeypatch: pytest.MonkeyPatch) -> None:
    sending = Sending(monkeypatch)
    connection = connection_to(URLS[0])

    async def clean_up() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await connection.send_command("PING")
        return "sent"

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "sent"
    assert not sending.disconnected


def test_no_other_module_makes_a_client() -> None:
    importing = {
        path.relative_to(SERVICES).as_posix()
        for path in SERVICES.rglob("*.py")
        if any(name.split(".")[0] == "redis" and name not in HARMLESS for name in _imports(ast.parse(path.read_text())))
    }
    assert importing == MAKERS


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported when the program runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or ""
        yield from _imports(child)
