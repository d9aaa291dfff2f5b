"""Taking a port, and saying in one way why it cannot be had."""

from __future__ import annotations

import socket


def split_address(listen: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 address stands in brackets."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def try_to_bind(listen: str) -> None:
    """Raise OSError if nobody can listen there: gRPC's core would say so on standard error in words of its own."""
    host, port = split_address(listen)
    if port != 0:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
