"""A limit for each network address, kept in this process."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cachetools import LRUCache

from keypost.clock import SECOND

if TYPE_CHECKING:
    from keypost.clock import Clock

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

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
        wait_ms = self.wait(name)
        if not wait_ms:
            self.book(name, 1)
        return wait_ms

    def give_back(self, name: str) -> None:
        """Put one back that was taken for nothing."""
        self.book(name, -1)

    def wait(self, name: str, cost: float = 1) -> int:
        """Return 0 if so many are there, at least one, at most all that the bucket holds; else after how long they are.

        Returns:
            Milliseconds.
        """
        lacks = max(1, min(cost, self._size)) - self._level(name)
        return int(lacks / self._per_second * SECOND) + 1 if lacks > 0 else 0

    def book(self, name: str, cost: float) -> None:
        """Take so many whether they are there or not, and owe the rest, at most a full bucket; negative: put back."""
        if cost:
            level = max(-self._size, min(self._size, self._level(name) - cost))
            self._levels[name] = (level, self._clock())

    def _level(self, name: str) -> float:
        now = self._clock()
        level, since = self._levels.get(name, (self._size, 0))
        if since > now:
            # The clock was set back: from now on it fills again, not only once the clock has caught up.
            self._levels[name] = (level, now)
        return min(self._size, level + max(0, now - since) * self._per_second / SECOND)


@lru_cache(4_096)
def peer_address(peer: str) -> str:
    """Return the network address of a gRPC peer, without the port; the /64 of an IPv6 address.

    Args:
        peer: As gRPC writes it: ``ipv4:192.0.2.1:4711``, ``ipv6:%5B2001:db8::1%5D:4711``, ``unix:…``.
    """
    address = ip_address_of(peer)
    if address is None:
        return unquote(peer).partition(":")[0]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def ip_address_of(peer: str) -> IpAddress | None:
    """Return the IP address of a gRPC peer; None: it has none."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return read_ip_address(host.strip("[]").partition("%")[0])


def read_ip_address(text: str) -> IpAddress | None:
    """Return an IP address, as IPv4 if it is a mapped one; None: the text is none, or one of a single machine's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return None if address.scope_id else address.ipv4_mapped or address
