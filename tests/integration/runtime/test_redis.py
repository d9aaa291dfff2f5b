from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keypost_services.runtime.redis import redis_client
from support.valkey import running_valkey

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis


async def test_a_client_works_and_never_waits_for_ever(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        client = redis_client(server.url, answer_seconds=0.2)
        async with client, asyncio.timeout(10):
            assert await client.set("a", "b")
            server.freeze()
            with pytest.raises(RedisTimeoutError):
                await client.get("a")
            server.thaw()
            server.kill()
            with pytest.raises(RedisConnectionError):
                await client.get("a")


async def test_no_cancellation_is_lost(tmp_path: Path) -> None:
    # Without the connections that heed it, more than half of these would be.
    with running_valkey(tmp_path) as server:
        client = redis_client(server.url)
        async with client, asyncio.timeout(30):
            assert await client.ping()
            assert [number for number in range(200) if await loses_cancellation(client, number)] == []
            assert await client.echo("its own answer") == b"its own answer"


async def loses_cancellation(client: Redis, number: int) -> bool:
    """Cancel a loop of commands at another moment for each number; returns whether it went on."""
    cancelled = False

    async def work() -> bool:
        while not cancelled:
            async with asyncio.timeout(2):
                await client.eval("return 1", 0)
        return True

    task = asyncio.create_task(work())
    for _ in range(1 + number % 40):
        await asyncio.sleep(0)
    cancelled = True
    task.cancel()
    await asyncio.wait([task])
    return not task.cancelled()
