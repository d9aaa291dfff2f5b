"""TLS channels to the services that a bundle names."""

from __future__ import annotations

import os

import grpc
import grpc.aio

from keypost.errors import InvalidArgumentError

_MEBIBYTE = 1024 * 1024
_LARGEST_MESSAGE = 4 * _MEBIBYTE
"""A batch of deliveries is at most 1 MiB, an answer about 100 users about 2 MiB."""

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    # A connection that died without a word, or whose other end is frozen, is noticed within 30 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without these two a ping has a minute's time, and where nothing is written, as on a stream that only receives,
    # pings after the second one wait for minutes.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    # Retries are decided in one place (retries.py), where it is known which calls may be repeated.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # Channels with equal options share connections otherwise, and one that fails takes the others along.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", "keypost-python"),
)

_first_pid: int | None = None
"""The process that opened the first channel of this one and of those that it was forked from."""


def check_not_forked() -> None:
    """Raise if this process was forked from one that had opened a channel.

    What gRPC has begun before a fork hangs or crashes after it, even if all channels were closed.

    Raises:
        InvalidArgumentError: it was.
    """
    if _first_pid not in (None, os.getpid()):
        raise InvalidArgumentError(
            "a process that had a client was forked: open the first one after forking, or spawn the process",
            field="client",
        )


def open_channel(target: str, tls_roots_pem: str) -> grpc.aio.Channel:
    """Return a channel that connects on first use.

    Args:
        target: ``host:port``, from the bundle's endpoints.
        tls_roots_pem: PEM of the only certificates that the service's certificate may chain to.

    Returns:
        The channel; the caller closes it.

    Raises:
        InvalidArgumentError: this process was forked from one that had opened a channel.
    """
    global _first_pid  # noqa: PLW0603  # gRPC is begun once a process
    check_not_forked()
    _first_pid = os.getpid()
    credentials = grpc.ssl_channel_credentials(root_certificates=tls_roots_pem.encode())
    return grpc.aio.secure_channel(target, credentials, options=OPTIONS)
