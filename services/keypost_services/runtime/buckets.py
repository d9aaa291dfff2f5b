"""A limit for each network address, kept in this process."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cachetools import LRUCache

from keypost.clock import SECOND

if TYPE_CHECKING:
    from keypost.clock import Clock

MOST_ADDRESSES = 50_000


class Buckets:
    """Token buckets by name: each fills at a rate up to a size, and taking from an empty one is refused.

    Args:
        clock: Tells the time.
        size: How many may be taken at once.
        per_second: How fast a bucket fills.
        most: How many buckets are kept; the one unused longest is forgotten first, and is full when it comes back.
    """

    def __init__(self, clock: Clock, *, size: float, per_second: float, most: int = MOST_ADDRESSES) -> None:
        self._clock = clock
        self._size = size
        self._per_second = per_second
        self._levels: LRUCache[str, tuple[float, int]] = LRUCache(most)

    def take(self, name: str) -> int:
        """Take one; return 0, or after how many milliseconds there is one if the bucket is empty."""
        level = self._level(name)
        if level < 1:
            return int((1 - level) / self._per_second * SECOND) + 1
        self._levels[name] = (level - 1, self._clock())
        return 0

    def give_back(self, name: str) -> None:
        """Put one back that was taken for nothing."""
        self._levels[name] = (min(self._size, self._level(name) + 1), self._clock())

    def _level(self, name: str) -> float:
        level, since = self._levels.get(name, (self._size, 0))
        passed = max(0, self._clock() - since)
        return min(self._size, level + passed * self._per_second / SECOND)


def peer_address(peer: str) -> str:
    """Return the network address of a gRPC peer, without the port; the /64 of an IPv6 address.

    Args:
        peer: As gRPC writes it: ``ipv4:192.0.2.1:4711``, ``ipv6:%5B2001:db8::1%5D:4711``, ``unix:…``.
    """
    family, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return family
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
