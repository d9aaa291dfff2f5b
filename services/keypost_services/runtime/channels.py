"""Channels from one service to another: mutual TLS, the peer's name checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc

from keypost_services.runtime.background import keep_running
from keypost_services.runtime.renewed_channel import RenewedChannel
from keypost_services.runtime.tls import TlsFiles, follow

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from keypost_services.runtime.serving import Runtime

CALLING = "calling"
"""What a service shows when it calls another one, in health and metrics."""
MOST_MESSAGE_BYTES = 16 * 1024 * 1024
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def internal_name(service: str) -> str:
    """Return the DNS name that the certificate of ``service`` carries, wherever the service runs."""
    return f"{service}.keypost.internal"


async def open_internal_channel(
    stack: AsyncExitStack, runtime: Runtime[Any], target: str, service: str
) -> grpc.aio.Channel:
    """Return a channel to ``service`` at ``target``, good while ``stack`` lasts; it connects when it is first used.

    Only a certificate that the service root issued to ``service`` is accepted at the other end. Renewed files, and
    addresses that are new, are taken up by calls to come.

    Args:
        stack: Leaving it closes the channel.
        runtime: Of the calling service. Its settings name its internal certificate, private key and root.
        target: ``host:port`` or a gRPC name such as ``dns:///ca.internal:8444``; all its addresses take turns.
        service: The name of the service that is called.

    Raises:
        ValueError: the settings for calls among services are not complete.
        StartError: one of the files is no good.
    """
    ends = runtime.health_metrics.certificate_end_time.labels(CALLING)
    channel = RenewedChannel(
        lambda credentials: channel_to(target, service, credentials),
        follow(TlsFiles(*runtime.settings.require_internal_tls()), runtime.log),
        runtime.log,
        on_change=lambda content: ends.set(min(content.ends)),
    )
    runtime.health.expect(CALLING)
    await stack.enter_async_context(channel)
    keep_running(stack, runtime, CALLING, lambda: channel.run(lambda why: runtime.health.set_degraded(CALLING, why)))
    return channel


def mutual_tls_channel(
    target: str, service: str, certificate_pem: bytes, private_key_pem: bytes, root_pem: bytes
) -> grpc.aio.Channel:
    """Return a channel to ``service`` at ``target``, as :func:`open_internal_channel`, that stays as it is."""
    return channel_to(target, service, grpc.ssl_channel_credentials(root_pem, private_key_pem, certificate_pem))


def channel_to(target: str, service: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    """Return a channel to ``service`` at ``target``, as :func:`mutual_tls_channel`, by what is shown and believed."""
    options = [
        ("grpc.ssl_target_name_override", internal_name(service)),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # As in keypost.transport.channels: else a dead peer is noticed minutes later.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    return grpc.aio.secure_channel(target, credentials, options=options)
