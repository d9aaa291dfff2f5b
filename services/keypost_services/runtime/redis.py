"""Clients of Redis or Valkey that never wait for ever, and never lose a cancellation.

Every client of a service comes from here. redis-py sends through ``asyncio.wait_for``, which before Python 3.12 returns
normally when it is cancelled in the moment in which it is done: a loop around it would never end. So the connections of
these clients look, after each command they send, whether their task was cancelled meanwhile; no caller has to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from collections.abc import Iterable

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 2.0
MOST_CONNECTIONS = 128


def redis_client(
    url: str,
    *,
    connect_seconds: float = CONNECT_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> Redis:
    """Return a client of the server at ``url``; it connects when it is first used.

    Nothing is tried twice behind the caller's back: whoever calls knows whether its command may be repeated.
    Cancelling whoever waits for it always counts.

    Args:
        url: ``redis://`` or ``rediss://`` with host, port, database and, if need be, name and password.
        connect_seconds: How long connecting may take.
        answer_seconds: How long an answer may take; a client that blocks on purpose wants more.
    """
    client = Redis.from_url(
        url,
        socket_connect_timeout=connect_seconds,
        socket_timeout=answer_seconds,
        max_connections=MOST_CONNECTIONS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=15,
    )
    pool = client.connection_pool
    pool.connection_class = _HEEDING[pool.connection_class]
    return client


class _Heeding(AbstractConnection):
    """A connection on which a cancellation counts even if sending swallowed it."""

    __slots__ = ()

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:  # noqa: FBT001, FBT002  # as redis-py has it
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            # What was sent is answered: the next command would take that answer for its own.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


class _HeedingConnection(_Heeding, Connection): ...


class _HeedingSslConnection(_Heeding, SSLConnection): ...


class _HeedingUnixConnection(_Heeding, UnixDomainSocketConnection): ...


_HEEDING: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _HeedingConnection,
    SSLConnection: _HeedingSslConnection,
    UnixDomainSocketConnection: _HeedingUnixConnection,
}
"""By the class that a URL stands for."""
