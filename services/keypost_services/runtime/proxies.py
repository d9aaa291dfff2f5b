"""Where a call comes from that came through a proxy: what proxies that are trusted say of it, and nobody else."""

from __future__ import annotations

import ipaddress
from itertools import islice
from typing import TYPE_CHECKING

from keypost_services.runtime.buckets import IpAddress, ip_address_of, read_ip_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED_FOR = "x-forwarded-for"
MOST_HOPS = 16
"""How many entries are looked at, from the right: as many as there are proxies. The rest is whatever anybody likes."""


def read_networks(text: str) -> tuple[IpNetwork, ...]:
    """Return the networks that a text names, with commas between.

    Args:
        text: Such as ``10.1.0.0/16, 2001:db8::/32, 192.0.2.7``.

    Raises:
        ValueError: one is none, or is the whole of the Internet.
    """
    networks = tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    for network in networks:
        if not network.prefixlen:
            raise ValueError(f"{network} is everybody, who could then say to be anybody")
    return networks


class TrustedProxies:
    """Tells where calls come from.

    A proxy appends to ``x-forwarded-for`` who called it. So the entries are true from the right, as far as those who
    wrote them are trusted; what stands before was sent by the caller, who may have written anything.

    Args:
        networks: The proxies'.
    """

    def __init__(self, networks: Sequence[IpNetwork] = ()) -> None:
        self._networks = networks

    def caller_of(self, peer: str, metadata: Sequence[tuple[str, str | bytes]]) -> str:
        """Return the network address of who called, as gRPC writes it; of one that a proxy names with the port 0.

        Args:
            peer: The other end of the connection, as gRPC writes it.
            metadata: What came with the call. If it is not as proxies write it, the caller counts as the proxy.
        """
        if not self._networks or not self._believes(peer):
            return peer
        return self._named(metadata) or peer

    def _believes(self, peer: str) -> bool:
        address = ip_address_of(peer)
        return address is not None and self._has(address)

    def _named(self, metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
        """Return whom the outermost proxy names; None: nobody, or nobody knows what it is."""
        for entry in _entries(metadata):
            address = read_ip_address(entry)
            if address is None:
                return None
            if not self._has(address):
                return _as_peer(address)
        return None

    def _has(self, address: IpAddress) -> bool:
        return any(address in network for network in self._networks)


def _entries(metadata: Sequence[tuple[str, str | bytes]]) -> Iterator[str]:
    """Return what the header says, from the right. Some proxies append to the line, others another line."""
    lines = (value for name, value in reversed(metadata) if name == FORWARDED_FOR)
    entries = (entry for line in lines for entry in _split(line))
    return islice(entries, MOST_HOPS)


def _split(line: str | bytes) -> list[str]:
    if isinstance(line, bytes):
        return [""]
    return [entry.strip() for entry in reversed(line.rsplit(",", MOST_HOPS))]


def _as_peer(address: IpAddress) -> str:
    return f"ipv4:{address}:0" if address.version == 4 else f"ipv6:%5B{address}%5D:0"  # noqa: PLR2004
