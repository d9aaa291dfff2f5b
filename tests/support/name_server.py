"""A name server whose one name has the addresses that a test gives it, as a headless Service has those of its pods."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_A = 1
_HEADER = 12


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address; no other one has an answer.

    Attributes:
        addresses: The answer.
        port: Where it is asked, over UDP.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.port = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(0, _HEADER) + 5
        (kind,) = struct.unpack(">H", data[end - 4 : end - 2])
        addresses = self.addresses if kind == _A else []
        # Of this question, authoritative, no error; each answer names the question's name, and is good for no time.
        header = data[:2] + struct.pack(">5H", 0x8580, 1, len(addresses), 0, 0)
        records = (struct.pack(">3HIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(address) for address in addresses)
        self._transport.sendto(header + data[_HEADER:end] + b"".join(records), addr)


@contextlib.asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    """Yield a name server that answers these addresses."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(*addresses), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
