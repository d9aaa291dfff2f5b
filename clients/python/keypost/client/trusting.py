"""The realm's trust statement: fetched, verified, kept, never back (docs/spec.md, "Realm trust")."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.clock import MINUTE
from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2
from keypost.keystore.values import StoredRealmTrust
from keypost.protocol.realm_trust import RealmTrust, read_realm_trust

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from keypost.client.context import Context

    Fetch = Callable[[], Awaitable[realm_trust_pb2.SignedRealmTrust]]

REFRESH_AT_MOST_EVERY = MINUTE


class Trust:
    """Knows the newest trust statement.

    Args:
        context: What all parts share.
        root_keys: The bundle's.
        sources: Where to ask, in order.
    """

    def __init__(self, context: Context, root_keys: Sequence[bytes], sources: Sequence[Fetch]) -> None:
        self._context = context
        self._root_keys = root_keys
        self._sources = sources
        self._held: RealmTrust | None = None
        self._asked_time = 0
        self._next_time = 0
        self._lock = asyncio.Lock()

    @property
    def held(self) -> RealmTrust:
        """The newest statement; ``current`` was awaited before."""
        if self._held is None:
            raise AssertionError
        return self._held

    async def current(self) -> RealmTrust:
        """Return the trust statement, fetched again once a record lifetime.

        Raises:
            ProtocolError, UnreachableError, RefusedError: none is held that may be relied upon, and none can be had.
        """
        async with self._lock:
            await self._load()
            held, now = self._held, self._context.clock()
            if held is None or not self._asked_time <= now < self._next_time or now >= held.until_time:
                await self._fetch()
            return self.held

    async def refresh(self) -> None:
        """Fetch the statement anew: a record names a record key that is not known. At most once a minute."""
        async with self._lock:
            if not self._asked_time <= self._context.clock() < self._asked_time + REFRESH_AT_MOST_EVERY:
                await self._fetch()

    async def _load(self) -> None:
        if self._held is None:
            stored = await self._context.store.run(lambda store: store.profile.realm_trust())
            if stored is not None:
                self._held = self._read(stored.signed, trusted=True)

    def _read(self, signed: bytes, *, trusted: bool) -> RealmTrust:
        message = realm_trust_pb2.SignedRealmTrust.FromString(signed)
        # What the store holds was verified when it came in; its age is judged at use.
        now = 0 if trusted else self._context.clock()
        root_keys = self._root_keys
        if trusted:
            statement = realm_trust_pb2.RealmTrust.FromString(message.realm_trust)
            root_keys = [*root_keys, *(key.public_key_der for key in statement.root_keys)]
        return read_realm_trust(message, realm=self._context.realm, root_keys=root_keys, now=now, previous=self._held)

    async def _fetch(self) -> None:
        self._asked_time = self._context.clock()
        # A failure is not repeated with every message.
        self._next_time = self._asked_time + REFRESH_AT_MOST_EVERY
        try:
            signed = await self._ask()
            trust = self._read(signed.SerializeToString(), trusted=False)
        except KeypostError as error:
            if self._held is None or self._context.clock() >= self._held.until_time:
                raise
            self._context.tell("warning", error.reason, f"the realm's trust was not refreshed: {error}")
            return
        if self._held is None or trust.sequence != self._held.sequence:
            await self._keep(trust)
        self._next_time = self._asked_time + trust.constants.record_lifetime

    async def _keep(self, trust: RealmTrust) -> None:
        stored = StoredRealmTrust(trust.sequence, trust.signed.SerializeToString())
        # First of all: what the store does not hold, it would not defend after a restart.
        await self._context.store.run(lambda store: store.profile.set_realm_trust(stored))
        self._held = trust

    async def _ask(self) -> realm_trust_pb2.SignedRealmTrust:
        failures: list[KeypostError] = []
        for source in self._sources:
            try:
                return await source()
            except KeypostError as error:
                failures.append(error)
        raise failures[0]
