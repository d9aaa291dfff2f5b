"""Clients of Redis or Valkey that never wait for ever."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 2.0
MOST_CONNECTIONS = 128


def redis_client(
    url: str,
    *,
    connect_seconds: float = CONNECT_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
    most_connections: int = MOST_CONNECTIONS,
) -> Redis:
    """Return a client of the server at ``url``; it connects when it is first used.

    Nothing is tried twice behind the caller's back: whoever calls knows whether its command may be repeated.

    Args:
        url: ``redis://`` or ``rediss://`` with host, port, database and, if need be, name and password.
        connect_seconds: How long connecting may take.
        answer_seconds: How long an answer may take; a client that blocks on purpose wants more.
        most_connections: How many connections it may open.
    """
    return Redis.from_url(
        url,
        socket_connect_timeout=connect_seconds,
        socket_timeout=answer_seconds,
        max_connections=most_connections,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=15,
    )
