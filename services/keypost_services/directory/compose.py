"""Wires the directory together: the one place that knows all its parts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.directory.v1.directory_service_pb2_grpc import (
    add_DirectoryServiceServicer_to_server,
    add_KeyEventServiceServicer_to_server,
)
from keypost_services.directory.ca_client import SERVICE, CaClient
from keypost_services.directory.device_keys import DirectoryRecords
from keypost_services.directory.key_events.actions import Actions
from keypost_services.directory.key_events.hub import EventHub
from keypost_services.directory.key_events.standing import Standing
from keypost_services.directory.look_up.arrow import Arrow
from keypost_services.directory.look_up.ca_tier import CaTier
from keypost_services.directory.look_up.fetch import Fetch
from keypost_services.directory.look_up.look_up import LookUp
from keypost_services.directory.look_up.verifier import Verifier
from keypost_services.directory.metrics import Metrics
from keypost_services.directory.servicer import DirectoryServicer, KeyEventServicer
from keypost_services.directory.store_guarded import GuardedStore
from keypost_services.directory.store_process import ProcessStore
from keypost_services.directory.store_redis import RedisStore
from keypost_services.runtime.auth import request_id_or
from keypost_services.runtime.background import keep_running
from keypost_services.runtime.breaker import Breaker
from keypost_services.runtime.bundle import read_root_keys
from keypost_services.runtime.channels import open_internal_channel
from keypost_services.runtime.device_keys import RecordedDeviceKeys
from keypost_services.runtime.key_event_watch import GrpcEventSource, KeyEventWatch
from keypost_services.runtime.realm_trust import trust_keeper
from keypost_services.runtime.redis import redis_client
from keypost_services.runtime.serving import Parts, Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis.asyncio import Redis

    from keypost_services.directory.settings import DirectorySettings
    from keypost_services.runtime.callers import VerifiedCallers
    from keypost_services.runtime.realm_trust import TrustKeeper

DIRECTORY_SERVICE = "keypost.directory.v1.DirectoryService"
KEY_EVENT_SERVICE = "keypost.directory.v1.KeyEventService"
PARTS = ("redis", "ca", "watch")
"""What the directory gets on without, for a while."""
_MEGABYTE = 1_048_576


@dataclass(frozen=True)
class Directory:
    """The directory's parts that outlive a call."""

    trust: TrustKeeper
    look_up: LookUp
    hub: EventHub
    standing: Standing
    watch: KeyEventWatch
    metrics: Metrics


@contextlib.asynccontextmanager
async def compose(runtime: Runtime[DirectorySettings]) -> AsyncIterator[Parts]:
    """Open the watch of the CA, wait until it stands, and yield what the server is to serve.

    Raises:
        StartError: The bundle is missing or wrong.
    """
    settings = runtime.settings
    root_keys = await asyncio.to_thread(read_root_keys, settings, settings.bundle)
    async with contextlib.AsyncExitStack() as stack:
        channel = await open_internal_channel(stack, runtime, settings.ca, SERVICE)
        seconds = settings.cache_timeout_seconds
        redis = redis_client(settings.cache_url, connect_seconds=seconds, answer_seconds=seconds)
        stack.push_async_callback(redis.aclose)
        ca = CaClient(
            channel,
            timeout_ms=_ms(settings.ca_timeout_seconds),
            traces=runtime.traces.traces,
            request_ids=lambda: request_id_or(runtime.ids),
        )
        directory = build(runtime, ca, redis, root_keys)
        stack.push_async_callback(directory.look_up.close)
        stack.push_async_callback(directory.trust.close)
        keep_running(stack, runtime, "trust", lambda: directory.trust.keep_fresh(settings.trust_refresh_seconds))
        keep_running(stack, runtime, "watch", directory.watch.run)
        await _wait_until_ready(runtime, directory)
        yield _parts(directory)


def build(runtime: Runtime[DirectorySettings], ca: CaClient, redis: Redis, root_keys: tuple[bytes, ...]) -> Directory:
    """Return the directory's parts, wired; nothing is asked of anybody yet."""
    settings, clock, log = runtime.settings, runtime.clock, runtime.log
    metrics = Metrics(runtime.metrics)
    runtime.health.expect(*PARTS)
    runtime.health.expect("trust", awaited=True)
    told = _teller(runtime)
    trust = trust_keeper(runtime, ca.fetch_trust, root_keys, lambda: _forget(look_up, runtime.callers))
    verifier = Verifier(trust, clock, log, metrics)
    process = ProcessStore(clock, most_bytes=settings.process_cache_megabytes * _MEGABYTE)
    arrow = Arrow(process, trust)
    store = _store(runtime, redis, verifier, metrics)
    ca_tier = CaTier(ca, verifier, arrow, Breaker(clock, _ms(settings.ca_retry_seconds)), metrics, told("ca"))
    standing = Standing(clock, _ms(settings.watch_grace_seconds))
    fetch = Fetch(
        process=process,
        store=store,
        ca=ca_tier,
        arrow=arrow,
        standing=standing,
        verifier=verifier,
        metrics=metrics,
    )
    look_up = LookUp(
        process,
        store,
        fetch,
        standing,
        clock,
        metrics,
        negative_ms=_ms(settings.negative_seconds),
        unconfirmed_ms=_ms(settings.unconfirmed_seconds),
    )
    metrics.cached_bytes.set_function(lambda: process.size)
    hub = EventHub(settings.event_buffer)
    actions = Actions(look_up, store, runtime.callers, hub, standing=standing, clock=clock, metrics=metrics)
    watch = KeyEventWatch(
        GrpcEventSource(ca.open_watch, "the CA"), actions, log, on_change=told("watch"), jitter=random.random
    )
    return Directory(trust, look_up, hub, standing, watch, metrics)


def _store(runtime: Runtime[DirectorySettings], redis: Redis, verifier: Verifier, metrics: Metrics) -> GuardedStore:
    settings, clock = runtime.settings, runtime.clock
    in_redis = RedisStore(redis, verifier, clock, realm=settings.realm, timeout_ms=_ms(settings.cache_timeout_seconds))
    return GuardedStore(
        in_redis,
        in_redis,
        Breaker(clock, _ms(settings.cache_retry_seconds)),
        _teller(runtime)("redis"),
        on_failure=metrics.redis_errors.inc,
    )


async def _forget(look_up: LookUp, callers: VerifiedCallers) -> None:
    """Drop what rests on records of a record key that was retired before its time."""
    callers.drop_all()
    await look_up.drop_all()


def _teller(runtime: Runtime[DirectorySettings]) -> Callable[[str], Callable[[str | None], None]]:
    """Return what makes for each part the function that says whether it is there."""
    return lambda part: lambda why: runtime.health.set_degraded(part, why)


def _parts(directory: Directory) -> Parts:
    servicer = DirectoryServicer(directory.look_up, directory.trust)
    events = KeyEventServicer(directory.hub, directory.standing, directory.metrics)
    return Parts(
        services=[
            (DIRECTORY_SERVICE, add_DirectoryServiceServicer_to_server, servicer),
            (KEY_EVENT_SERVICE, add_KeyEventServiceServicer_to_server, events),
        ],
        device_keys=RecordedDeviceKeys(DirectoryRecords(directory.look_up, directory.trust)),
    )


async def _wait_until_ready(runtime: Runtime[DirectorySettings], directory: Directory) -> None:
    """Wait until the watch stands and the realm's trust is known; without a CA the service starts degraded."""
    try:
        async with asyncio.timeout(runtime.settings.start_seconds):
            await directory.watch.wait_until_standing()
            await directory.trust.wait_until_known()
    except TimeoutError:
        runtime.log.warning("started without the CA", degraded=runtime.health.degraded)


def _ms(seconds: float) -> int:
    return int(seconds * 1_000)
