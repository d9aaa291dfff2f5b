"""The realm's trust statement: fetched, verified, kept, never back (docs/spec.md, "Realm trust")."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.clock import MINUTE
from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2
from keypost.keystore.values import StoredRealmTrust
from keypost.protocol.encoding import parse
from keypost.protocol.errors import UnknownRecordKeyError
from keypost.protocol.realm_trust import RealmTrust, ServedTrust, follow_realm_trust, restore_realm_trust

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from keypost.client.context import Context

    Fetch = Callable[[int], Awaitable[ServedTrust]]
    """Returns the current statement, and those later than the one of a sequence that lead to it."""

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
        self._refreshed_time = 0
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
            now = self._context.clock()
            if not self._refreshed_time <= now < self._refreshed_time + REFRESH_AT_MOST_EVERY:
                self._refreshed_time = now
                await self._fetch()

    def vouches_for(self, record_key_fingerprint: bytes) -> bool:
        """Whether the newest statement lists this record key (32 bytes) now; one that is retired vouches no more."""
        try:
            self.held.record_key(record_key_fingerprint, self._context.clock())
        except UnknownRecordKeyError:
            return False
        return True

    async def _load(self) -> None:
        if self._held is None:
            stored = await self._context.store.run(lambda store: store.profile.realm_trust())
            if stored is not None:
                # What the store holds was verified when it came in; its age is judged at use.
                signed = parse(realm_trust_pb2.SignedRealmTrust, stored.signed, "SignedRealmTrust")
                self._held = restore_realm_trust(signed, self._context.realm)

    async def _fetch(self) -> None:
        self._asked_time = self._context.clock()
        # A failure is not repeated with every message.
        self._next_time = self._asked_time + REFRESH_AT_MOST_EVERY
        try:
            trust = self._read(await self._ask(0 if self._held is None else self._held.sequence))
        except KeypostError as error:
            if self._held is None or self._context.clock() >= self._held.until_time:
                raise
            self._context.tell("warning", error.reason, f"the realm's trust was not refreshed: {error}")
            return
        if self._held is None or trust.sequence != self._held.sequence:
            await self._keep(trust)
        self._next_time = self._asked_time + trust.constants.record_lifetime

    def _read(self, served: ServedTrust) -> RealmTrust:
        return follow_realm_trust(
            served,
            realm=self._context.realm,
            root_keys=self._root_keys,
            now=self._context.clock(),
            previous=self._held,
        )

    async def _keep(self, trust: RealmTrust) -> None:
        stored = StoredRealmTrust(trust.sequence, trust.signed.SerializeToString())
        # First of all: what the store does not hold, it would not defend after a restart.
        await self._context.store.run(lambda store: store.profile.set_realm_trust(stored))
        self._held = trust

    async def _ask(self, after_sequence: int) -> ServedTrust:
        failures: list[KeypostError] = []
        for source in self._sources:
            try:
                return await source(after_sequence)
            except KeypostError as error:
                failures.append(error)
        raise failures[0]
