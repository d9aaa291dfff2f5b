"""What the limits cost a call: ``PYTHONPATH=tests python -m benchmarks.limits_cost``.

One service, one client on one connection, one unary call after the other, over TLS: without limits, with limits of this
process alone, and with limits in a Valkey. The three take turns, so that whatever else the machine does falls on all.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keypost.clock import DAY
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.runtime.limits import table
from keypost_services.runtime.limits.limiter_redis import RedisLimiter
from keypost_services.runtime.limits.ports import Charge, Quota
from keypost_services.runtime.method_table import anyone
from keypost_services.runtime.redis import redis_client
from support.service import SEND, serving
from support.valkey import running_valkey

if TYPE_CHECKING:
    from support.valkey import ValkeyServer

ROUNDS, CALLS, WARM_UP = 20, 200, 200
TABLES: dict[str, Any] = {"methods": {SEND: anyone()}, "method_limits": {SEND: table.anyone("Enroll")}}
TWO_QUOTAS = "Enroll=1000000/1s+1000000/1d"
CALLERS = 20_000


async def main() -> None:
    """Print the median of a call for each kind of limits, and what a caller takes of the limits server's memory."""
    with tempfile.TemporaryDirectory() as name, running_valkey(Path(name) / "valkey") as valkey:
        kinds: dict[str, dict[str, Any]] = {
            "no limits": {"limits": "Enroll=none"},
            "two quotas, in the process": {"limits": TWO_QUOTAS},
            "two quotas, in Valkey": {"limits": TWO_QUOTAS, "limits_url": valkey.url},
        }
        for kind, seconds in (await measure(Path(name), kinds)).items():
            print(f"{kind}: median {statistics.median(seconds) * 1_000_000:.0f} us a call, {len(seconds)} calls")
        print(f"memory: {await bytes_of_a_bucket(valkey):.0f} bytes for each caller and quota")


async def measure(folder: Path, kinds: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Return the seconds of each call, by kind of limits."""
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with contextlib.AsyncExitStack() as stack:
        stubs = {}
        for kind, settings in kinds.items():
            usual = {"anonymous_calls_per_second": 1e9, "log_level": "error", **TABLES}
            service = await stack.enter_async_context(serving(folder, **usual, **settings))
            channel = await stack.enter_async_context(service.public_channel())
            stubs[kind] = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
            await calls(stubs[kind], WARM_UP)
        for _ in range(ROUNDS):
            for kind, stub in stubs.items():
                taken[kind] += await calls(stub, CALLS)
    return taken


async def calls(stub: Any, number: int) -> list[float]:
    """Return the seconds of so many calls, one after the other."""
    taken = []
    for _ in range(number):
        begun = time.perf_counter()
        await stub.Send(pb.SendRequest())
        taken.append(time.perf_counter() - begun)
    return taken


async def bytes_of_a_bucket(valkey: ValkeyServer) -> float:
    """Return how much memory of the server a caller takes for one quota."""
    async with redis_client(valkey.url, answer_seconds=60) as redis:
        await redis.flushall()
        limiter = RedisLimiter(redis, realm="example.org", timeout_ms=60_000)
        before = (await redis.info("memory"))["used_memory"]
        quota = Quota(20_000, DAY)
        for first in range(0, CALLERS, 100):
            await limiter.take([Charge("look_ups", f"user{first + n}", quota, 10) for n in range(100)])
        return float((await redis.info("memory"))["used_memory"] - before) / CALLERS


if __name__ == "__main__":
    asyncio.run(main())
