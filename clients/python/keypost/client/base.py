"""What all groups of a client's methods share: its parts, and the count of calls under way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from keypost.client.own_watch import as_revoked
from keypost.errors import InvalidArgumentError, RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost.client.wiring import Parts
    from keypost.protocol.identifiers import Address


class ClientBase:
    """A client without its methods: ``Client`` puts the groups of them together."""

    def __init__(self, parts: Parts, *, automatic_renewal: bool) -> None:
        self._parts = parts
        self._automatic_renewal = automatic_renewal
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        parts.sending.prepare = self._renew_if_due

    def __repr__(self) -> str:
        return f"Client(realm={self.realm!r}, address={self.address and str(self.address)!r})"

    @property
    def realm(self) -> str:
        """The realm."""
        return self._parts.context.realm

    @property
    def address(self) -> Address | None:
        """The own address, or None before enrolment; it stays known when the client is closed."""
        return self._parts.identity.ring.address

    @asynccontextmanager
    async def _working(self, *, copy_too: bool = False) -> AsyncIterator[None]:
        """Count a call under way.

        Args:
            copy_too: The call is harmless, or what a restored profile is waiting for: it need not have taken over.
        """
        self._check_open()
        self._under_way += 1
        self._idle.clear()
        try:
            if not copy_too:
                await self._parts.restoring.check_ready()
            async with self._parts.renewing.asking_whether_replaced():
                yield
        except RefusedError as refused:
            if (revoked := as_revoked(refused, self.address)) is not None:
                raise revoked from refused
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise InvalidArgumentError("this client is closed: open another", field="client")

    async def _renew_if_due(self) -> None:
        await self._parts.renewing.resume()
        if self._automatic_renewal:
            await self._parts.renewing.renew_if_due()
