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
