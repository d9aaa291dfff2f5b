"""What waits and what was set aside: tried again, until it opens or never will."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.client.opening import Fate, attempt, set_aside
from keypost.client.receiving import Arrival, holds_up, relied_upon
from keypost.client.records import RecordBehindError
from keypost.client.results import SetAside
from keypost.client.suspects import ATTEMPTS, counted, end_count, give_up
from keypost.protocol.errors import KeyUnknownError
from keypost.protocol.realm_trust import CLOCK_SKEW

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from keypost.client.context import Context
    from keypost.client.opening import Opening, Outcome
    from keypost.client.receiving import Receiving
    from keypost.errors import KeypostError
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import WaitingEnvelope
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord


CONTRADICTED = (KeyUnknownError, RecordBehindError)
"""What a record says against a message: if one made well after the message came still does, it always will."""


class Waiting:
    """Tries envelopes again that could not be opened.

    Args:
        context: What all parts share.
        receiving: Opens envelopes.
    """

    def __init__(self, context: Context, receiving: Receiving) -> None:
        self._context = context
        self._receiving = receiving
        self._lock = asyncio.Lock()

    async def retry(self) -> None:
        """Try again what waits; every sender's record is asked for once."""
        async with self._lock:
            await self._try_again(refreshed=set())

    async def settle_earlier(self, usernames: Collection[str]) -> Collection[Address]:
        """Try again what waits of these users, by the records that are held.

        Returns:
            The devices of which something still waits before which nothing may be handed out that comes now.
        """
        held_up: set[Address] = set()
        for username in await self._context.store.run(_which_wait, usernames):
            async with self._lock:
                held_up |= await self._try_again(username)
        return held_up

    async def _try_again(self, username: str | None = None, *, refreshed: set[str] | None = None) -> set[Address]:
        """Try what waits, of one user or of all, and return the devices that are held up.

        Args:
            username: Whose messages.
            refreshed: Whose records were asked for; those of the others are, once. None: what is held will do.
        """
        while True:
            done = await self._pass(username, refreshed)
            # A record that came in the midst of a pass opens more: in the next one, which begins with what came first.
            if not done.is_overtaken:
                return done.held_up

    async def _pass(self, username: str | None, refreshed: set[str] | None) -> _Pass:
        begun, after = _Pass(self._context.clock()), 0
        while page := await self._context.store.run(_page, after, username):
            senders = set() if refreshed is None else {row.username for row in page} - refreshed
            await self._retry(page, senders, begun)
            if refreshed is not None:
                refreshed |= senders
            after = page[-1].sequence
        return begun

    async def _retry(self, page: Sequence[WaitingEnvelope], refresh: Collection[str], begun: _Pass) -> None:
        """Try the next envelopes in their order, but none that would be handed out before one that waits on."""
        openings = await self._receiving.prepare([_arrival(row) for row in page], refresh, now=begun.now)
        for opening, row in zip(openings, page, strict=True):
            if begun.holds(opening):
                continue
            outcome = await self._again(opening, row)
            if outcome.fate is not Fate.WAITS:
                self._receiving.tell(outcome)
            else:
                begun.note(opening, outcome)

    async def _again(self, opening: Opening, row: WaitingEnvelope) -> Outcome:
        if opening.failure is not None:
            return await self._context.store.transact(_settle_again, opening, row)
        # Now it may open, and fail this device: no longer at the others that came with it, but at each start.
        async with counted(self._context, row.envelope) as begun:
            act = _give_up if begun > ATTEMPTS else _settle_again
            return await self._context.store.transact(act, opening, row)

    async def retry_set_aside(self) -> int:
        """Try again what was set aside, and return how many messages it gave."""
        async with self._lock:
            opened, after = 0, 0
            while page := await self._context.store.run(lambda store, start: store.set_aside.page(start), after):
                openings = await self._receiving.prepare([_arrival(row) for row in page])
                for opening, row in zip(openings, page, strict=True):
                    outcome = await self._context.store.transact(_bring_back, opening, row)
                    if outcome.fate is Fate.KEPT:
                        self._receiving.tell(outcome)
                        opened += 1
                after = page[-1].sequence
            return opened

    async def list_set_aside(self, limit: int) -> list[SetAside]:
        """Return what was set aside, the oldest first, at most ``limit``."""
        rows = await self._context.store.run(lambda store: store.set_aside.page(limit=limit))
        return [SetAside(row.reason, row.username, row.accept_time, len(row.envelope)) for row in rows]


class _Pass:
    """What is found while all that waits is tried, page by page, so that nothing overtakes what waits on.

    Attributes:
        now: The time by which all is judged: the clock goes on meanwhile.
        held_up: The devices of which something waits because nobody could be asked, or no answer could be used.
        is_overtaken: Whether a record came in the midst of it that opens more.
    """

    def __init__(self, now: int) -> None:
        self.now = now
        self.held_up: set[Address] = set()
        self.is_overtaken = False
        self._unknown: dict[tuple[Address, str], int] = {}

    def holds(self, opening: Opening) -> bool:
        """Return whether an envelope has to wait because an earlier one of the same device does.

        One that relies on no revision that the earlier one lacked does not: whoever made one up keeps nothing back.
        """
        if opening.sealed is None:
            return False
        if (sender := opening.sealed.header.sender) in self.held_up:
            return True
        lacked = any(self._lacked(sender, username, revision) for username, revision in relied_upon(opening.sealed))
        self.is_overtaken |= lacked and opening.failure is None
        return lacked

    def _lacked(self, sender: Address, username: str, revision: int) -> bool:
        least = self._unknown.get((sender, username))
        return least is not None and revision >= least

    def note(self, opening: Opening, outcome: Outcome) -> None:
        """Note why an envelope waits on."""
        if opening.sealed is None:
            return
        sender = opening.sealed.header.sender
        if holds_up(outcome):
            self.held_up.add(sender)
        elif isinstance(outcome.error, RecordBehindError):
            records = opening.own_record, opening.sender_record
            for (username, revision), record in zip(relied_upon(opening.sealed), records, strict=True):
                if record is None or record.revision < revision:
                    least = self._unknown.get((sender, username), revision)
                    self._unknown[sender, username] = min(revision, least)


def _page(store: KeyStore, after: int, username: str | None) -> Sequence[WaitingEnvelope]:
    return store.waiting.page(after, username=username)


def _which_wait(store: KeyStore, usernames: Collection[str]) -> list[str]:
    return [username for username in usernames if store.waiting.page(username=username, limit=1)]


def _arrival(row: WaitingEnvelope) -> Arrival:
    return Arrival(row.envelope, row.accept_time, row.receive_time, row.arrival)


def _settle_again(store: KeyStore, opening: Opening, row: WaitingEnvelope) -> Outcome:
    end_count(store, opening)
    outcome = attempt(store, opening)
    if outcome.fate is Fate.WAITS and _is_never(opening, outcome.error):
        outcome.fate = Fate.SET_ASIDE
    if outcome.fate is Fate.SET_ASIDE:
        set_aside(store, opening, outcome)
    if outcome.fate is not Fate.WAITS:
        store.waiting.remove(row.sequence)
    return outcome


def _give_up(store: KeyStore, opening: Opening, row: WaitingEnvelope) -> Outcome:
    outcome = give_up(store, opening)
    store.waiting.remove(row.sequence)
    return outcome


def _bring_back(store: KeyStore, opening: Opening, row: WaitingEnvelope) -> Outcome:
    outcome = attempt(store, opening)
    if outcome.fate is not Fate.SET_ASIDE and outcome.fate is not Fate.WAITS:
        store.set_aside.remove(row.sequence)
    return outcome


def _is_never(opening: Opening, error: KeypostError | None) -> bool:
    """Return whether what keeps the message from being opened now will always do.

    Only what a record says becomes final by a newer record. A service that refuses or does not answer, an answer
    that cannot be used and a clock that is behind say nothing of the message: it waits for them up to the age limit.
    """
    if _is_over_age(opening):
        return True
    if not isinstance(error, CONTRADICTED):
        return False
    record = _named_by(opening, error)
    return record is not None and record.this_update > opening.receive_time + CLOCK_SKEW


def _is_over_age(opening: Opening) -> bool:
    # Delivery's time can only make it end sooner: one in the future would have it wait for ever.
    begun = min(opening.accept_time, opening.receive_time)
    return opening.now > begun + opening.trust.constants.age_limit


def _named_by(opening: Opening, error: KeypostError) -> KeyRecord | None:
    """Return the record that has to change for the message to open: the one of the user whom the failure names."""
    records = (record for record in (opening.own_record, opening.sender_record) if record is not None)
    return next((record for record in records if record.username == error.metadata.get("username")), None)
