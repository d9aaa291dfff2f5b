"""Wires delivery together: the one place that knows all its parts."""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from keypost.delivery.v1.delivery_service_pb2_grpc import add_DeliveryServiceServicer_to_server
from keypost.transport.directory_client import DirectoryClient
from keypost.transport.retries import Retries
from keypost_services.delivery.connecting import servers_at
from keypost_services.delivery.durability import MailboxServerRefusedError, check_mailbox_servers, memory_share
from keypost_services.delivery.emptying import Emptying
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.key_events import KeyEventEffects, event_source
from keypost_services.delivery.listing import Listing
from keypost_services.delivery.mailboxes import Durability, MailboxesUnavailableError, MailboxLimits
from keypost_services.delivery.metrics import Metrics
from keypost_services.delivery.receiving import Receiving
from keypost_services.delivery.records import CallersRecords, Records
from keypost_services.delivery.sending import Sending
from keypost_services.delivery.servicer import DeliveryServicer
from keypost_services.delivery.store_valkey import Observers, ValkeyMailboxes
from keypost_services.delivery.tracing import MessageTraces
from keypost_services.delivery.wake_up_hook.gateway import https_gateway
from keypost_services.delivery.wake_up_hook.hook import Pace, WakeUpHook
from keypost_services.delivery.wake_up_hook.signature import read_secrets
from keypost_services.delivery.wake_ups import WakeUpSubscriptions
from keypost_services.runtime.auth import request_id_or
from keypost_services.runtime.background import keep_running
from keypost_services.runtime.bundle import read_root_keys
from keypost_services.runtime.channels import open_internal_channel
from keypost_services.runtime.device_keys import RecordedDeviceKeys
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.key_event_watch import KeyEventWatch
from keypost_services.runtime.realm_trust import trust_keeper
from keypost_services.runtime.redis import ANSWER_SECONDS
from keypost_services.runtime.serving import Parts, Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    import grpc.aio

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.servers import Servers
    from keypost_services.delivery.settings import DeliverySettings
    from keypost_services.runtime.callers import VerifiedCallers
    from keypost_services.runtime.realm_trust import TrustKeeper

DELIVERY_SERVICE = "keypost.delivery.v1.DeliveryService"
DIRECTORY_RETRIES = Retries(attempts=3, attempt_timeout=2.0, deadline=5.0)
PROBE_SECONDS = 2.0
TRUST_SECONDS = 300.0
PARTS = ("mailboxes", "key_events", "emptying")
_jitter = random.SystemRandom().random


@asynccontextmanager
async def compose(runtime: Runtime[DeliverySettings]) -> AsyncIterator[Parts]:
    """Connect to the mailboxes and the directory, and yield what the server is to serve.

    Raises:
        StartError: the bundle cannot be used, or the mailbox server is not fit.
    """
    settings = runtime.settings
    root_keys = await asyncio.to_thread(read_root_keys, settings, settings.bundle)
    metrics = Metrics(runtime.metrics)
    runtime.health.expect(*PARTS, *(("hook",) if settings.hook_url else ()))
    runtime.health.expect("trust", awaited=True)
    async with AsyncExitStack() as stack:
        functions = FunctionLibrary()
        servers = _servers(settings, functions)
        mailboxes = await _open_mailboxes(stack, servers, functions, settings, metrics)
        channel = await open_internal_channel(stack, runtime, settings.directory, "directory")
        directory = _directory(runtime, channel)
        trust = trust_keeper(runtime, directory.get_realm_trust, root_keys, lambda: _forget(records, runtime.callers))
        stack.push_async_callback(trust.close)
        records = Records(directory, trust, runtime.clock, metrics, most_users=settings.cached_users)
        emptying = _emptying(runtime, mailboxes, records, metrics)
        watch = _watch(runtime, channel, records, emptying, metrics)
        keep_running(stack, runtime, "trust", lambda: trust.keep_fresh(TRUST_SECONDS))
        keep_running(stack, runtime, "key_events", watch.run)
        keep_running(stack, runtime, "emptying", emptying.run)
        keep_running(stack, runtime, "mailboxes", lambda: _probe(runtime, servers, metrics))
        on_unheard = await _open_hook(stack, runtime, mailboxes, metrics)
        servicer = _servicer(runtime, mailboxes, records, trust, metrics, emptying, on_unheard=on_unheard)
        yield Parts(
            services=[(DELIVERY_SERVICE, add_DeliveryServiceServicer_to_server, servicer)],
            device_keys=RecordedDeviceKeys(CallersRecords(records, trust)),
        )


def _servers(settings: DeliverySettings, functions: FunctionLibrary) -> Servers:
    waits = settings.replica_seconds if settings.durability is Durability.REPLICATED else 0
    return servers_at(settings.mailboxes_url, functions, answer_seconds=ANSWER_SECONDS + waits)


def _directory(runtime: Runtime[DeliverySettings], channel: grpc.aio.Channel) -> DirectoryClient:
    return DirectoryClient(
        channel,
        DIRECTORY_RETRIES,
        traces=runtime.traces.traces,
        request_ids=lambda: request_id_or(runtime.ids),
    )


async def _forget(records: Records, callers: VerifiedCallers) -> None:
    """Drop what rests on records of a record key that was retired before its time."""
    records.forget_all()
    callers.drop_all()


def _emptying(
    runtime: Runtime[DeliverySettings], mailboxes: ValkeyMailboxes, records: Records, metrics: Metrics
) -> Emptying:
    return Emptying(
        mailboxes,
        records,
        metrics,
        runtime.log,
        on_change=lambda why: runtime.health.set_degraded("emptying", why),
    )


def _watch(
    runtime: Runtime[DeliverySettings],
    channel: grpc.aio.Channel,
    records: Records,
    emptying: Emptying,
    metrics: Metrics,
) -> KeyEventWatch:
    """Return what hears of key events; what a newer record shows has the effects of one."""
    effects = KeyEventEffects(records, runtime.callers, emptying, metrics, runtime.clock)
    records.on_newer = effects.saw
    return KeyEventWatch(
        event_source(channel),
        effects,
        runtime.log,
        on_change=lambda why: runtime.health.set_degraded("key_events", why),
        jitter=_jitter,
    )


async def _open_mailboxes(
    stack: AsyncExitStack,
    servers: Servers,
    functions: FunctionLibrary,
    settings: DeliverySettings,
    metrics: Metrics,
) -> ValkeyMailboxes:
    try:
        await stack.enter_async_context(servers)
        await check_mailbox_servers(servers, settings.durability)
        subscriptions = await stack.enter_async_context(WakeUpSubscriptions(servers, metrics.woken, _jitter))
        mailboxes = ValkeyMailboxes(
            servers,
            subscriptions,
            functions,
            MailboxLimits(settings.mailbox_messages, settings.mailbox_bytes, settings.mailbox_sender_percent),
            settings.durability,
            replica_timeout=int(settings.replica_seconds * 1000),
            observers=Observers(metrics.deepened, metrics.expired.inc, metrics.mailbox_errors.inc),
        )
        await mailboxes.prepare()
    except (MailboxServerRefusedError, MailboxesUnavailableError) as error:
        raise StartError(f"KEYPOST_DELIVERY_MAILBOXES_URL: {error}") from error
    return mailboxes


async def _open_hook(
    stack: AsyncExitStack, runtime: Runtime[DeliverySettings], mailboxes: ValkeyMailboxes, metrics: Metrics
) -> Callable[[Collection[Address]], None]:
    """Return whom to tell of what arrives for devices that are not connected."""
    settings = runtime.settings
    if settings.hook_url is None or settings.hook_secret_file is None:
        return lambda _: None
    try:
        secrets = read_secrets(await asyncio.to_thread(settings.hook_secret_file.read_text))
        tls = await asyncio.to_thread(ssl.create_default_context, cafile=settings.hook_tls_roots)
    except (OSError, ValueError) as error:
        raise StartError(f"KEYPOST_DELIVERY_HOOK_SECRET_FILE or KEYPOST_DELIVERY_HOOK_TLS_ROOTS: {error}") from error
    gateway = await stack.enter_async_context(
        https_gateway(settings.hook_url, secrets, tls, runtime.clock, seconds=settings.hook_seconds)
    )
    hook = WakeUpHook(
        mailboxes,
        gateway,
        metrics,
        runtime.log,
        realm=settings.realm,
        ids=runtime.ids,
        pace=Pace(_jitter, settings.hook_interval_seconds),
        on_change=lambda why: runtime.health.set_degraded("hook", why),
    )
    # Left in the other order: first the work ends, then what it leaves behind has a last chance.
    stack.push_async_callback(hook.farewell)
    keep_running(stack, runtime, "hook", hook.run)
    return hook.unheard


def _servicer(
    runtime: Runtime[DeliverySettings],
    mailboxes: ValkeyMailboxes,
    records: Records,
    trust: TrustKeeper,
    metrics: Metrics,
    emptying: Emptying,
    *,
    on_unheard: Callable[[Collection[Address]], None],
) -> DeliveryServicer:
    sending = Sending(
        mailboxes,
        records,
        trust,
        runtime.clock,
        on_unheard=on_unheard,
        on_revoked=emptying.empty,
        traces=runtime.traces.traces,
    )
    receiving = Receiving(
        mailboxes, trust, clock=runtime.clock, ids=runtime.ids, jitter=_jitter, metrics=metrics, on_left=on_unheard
    )
    return DeliveryServicer(
        runtime.settings.realm,
        sending,
        receiving,
        Listing(mailboxes, records),
        metrics,
        lambda why: runtime.health.set_degraded("mailboxes", why),
        traces=MessageTraces(runtime.traces, runtime.log),
        start_seconds=runtime.settings.stream_start_seconds,
    )


async def _probe(runtime: Runtime[DeliverySettings], servers: Servers, metrics: Metrics) -> None:
    """Say in health whether the mailbox servers answer and are still fit, now and then."""
    while True:
        try:
            await check_mailbox_servers(servers, runtime.settings.durability)
        except MailboxServerRefusedError as error:
            # Of a cluster, what is left serves its own mailboxes.
            share = await memory_share(servers)
            runtime.health.set_degraded("mailboxes", str(error), blocks=share is None)
        else:
            share = await memory_share(servers)
            runtime.health.set_degraded("mailboxes", None)
        if share is not None:
            metrics.memory_share.set(share)
        await asyncio.sleep(PROBE_SECONDS)
