"""What waits and what was set aside: tried again, until it opens or never will."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.client.opening import Fate, attempt, set_aside
from keypost.client.receiving import Arrival
from keypost.protocol.realm_trust import CLOCK_SKEW

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.opening import Opening, Outcome
    from keypost.client.receiving import Receiving
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import WaitingEnvelope
    from keypost.protocol.key_info import KeyRecord


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
            refreshed: set[str] = set()
            after = 0
            while page := await self._context.store.run(lambda store, start: store.waiting.page(start), after):
                senders = {row.username for row in page}
                arrivals = [_arrival(row, row.sequence) for row in page]
                openings = await self._receiving.prepare(arrivals, senders - refreshed)
                refreshed |= senders
                for opening, row in zip(openings, page, strict=True):
                    outcome = await self._context.store.transact(_settle_again, opening, row)
                    if outcome.fate is not Fate.WAITS:
                        self._receiving.tell(outcome)
                after = page[-1].sequence

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


def _arrival(row: WaitingEnvelope, sequence: int = 0) -> Arrival:
    return Arrival(row.envelope, row.accept_time, row.receive_time, sequence)


def _settle_again(store: KeyStore, opening: Opening, row: WaitingEnvelope) -> Outcome:
    outcome = attempt(store, opening)
    if outcome.fate is Fate.WAITS and _is_never(opening):
        outcome.fate = Fate.SET_ASIDE
    if outcome.fate is Fate.SET_ASIDE:
        set_aside(store, opening, outcome)
    if outcome.fate is not Fate.WAITS:
        store.waiting.remove(row.sequence)
    return outcome


def _bring_back(store: KeyStore, opening: Opening, row: WaitingEnvelope) -> Outcome:
    outcome = attempt(store, opening)
    if outcome.fate is not Fate.SET_ASIDE and outcome.fate is not Fate.WAITS:
        store.set_aside.remove(row.sequence)
    return outcome


def _is_never(opening: Opening) -> bool:
    """Return whether what contradicts the message now will always do."""
    # Delivery's time can only make it end sooner: one in the future would have it wait for ever.
    begun = min(opening.accept_time, opening.receive_time)
    if opening.now > begun + opening.trust.constants.age_limit:
        return True
    record = _contradicting(opening)
    return record is not None and record.this_update > opening.receive_time + CLOCK_SKEW


def _contradicting(opening: Opening) -> KeyRecord | None:
    """Return the record that has to change for the message to open: the own one, if it is behind."""
    own, sealed = opening.own_record, opening.sealed
    if own is not None and sealed is not None and own.revision < sealed.header.recipient_revision:
        return own
    return opening.sender_record
