"""Channels from one service to another: mutual TLS, the peer's name checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from keypost_services.runtime.config import ServiceSettings

MOST_MESSAGE_BYTES = 16 * 1024 * 1024
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def internal_name(service: str) -> str:
    """Return the DNS name that the certificate of ``service`` carries, wherever the service runs."""
    return f"{service}.keypost.internal"


def internal_channel(target: str, settings: ServiceSettings, service: str) -> grpc.aio.Channel:
    """Return a channel to ``service`` at ``target``; it connects when it is first used.

    Only a certificate that the service root issued to ``service`` is accepted at the other end.

    Args:
        target: ``host:port`` or a gRPC name such as ``dns:///ca.internal:8444``; all its addresses take turns.
        settings: Those of the calling service: its internal certificate, private key and root.
        service: The name of the service that is called.

    Raises:
        ValueError: the settings for calls among services are not complete.
        OSError: one of the files cannot be read.
    """
    certificate, private_key, root = settings.require_internal_tls()
    return mutual_tls_channel(target, service, certificate.read_bytes(), private_key.read_bytes(), root.read_bytes())


def mutual_tls_channel(
    target: str, service: str, certificate_pem: bytes, private_key_pem: bytes, root_pem: bytes
) -> grpc.aio.Channel:
    """Return a channel to ``service`` at ``target``, as :func:`internal_channel`, from what is in the files."""
    credentials = grpc.ssl_channel_credentials(root_pem, private_key_pem, certificate_pem)
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
