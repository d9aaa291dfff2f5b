"""Envelopes that this device may fail at: what fails again and again is reported, not looped.

A crash leaves no word of what it was about. So attempts at an envelope that came again and again are counted before
they are made, each envelope alone, and one that was never taken in is set aside as it came.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from keypost.client.opening import Fate, Outcome, set_aside
from keypost.errors import KeypostError
from keypost.protocol.encoding import sha256

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost.client.context import Context
    from keypost.client.opening import Opening
    from keypost.keystore.port import KeyStore

ATTEMPTS = 5
"""How often it is tried to take an envelope in."""
TOGETHER = 2
"""How many of these are made with the rest of a batch and not counted: a broken connection costs an attempt too."""


class DeliveredTooOftenError(KeypostError):
    """This device failed each time while it took the envelope in."""

    reason = "DELIVERED_TOO_OFTEN"


def is_suspect(attempts: int) -> bool:
    """Return whether an envelope came so often (by the word of delivery) that this device may be failing at it."""
    return attempts > TOGETHER


@asynccontextmanager
async def counted(context: Context, raw: bytes) -> AsyncIterator[int]:
    """Count an attempt at an envelope before it is made; yield how many were counted.

    Whoever makes it ends the count in the transaction that settles the envelope. An exception is none of the
    envelope's, and the attempt is taken back: somebody cancelled, or a service or the disk failed.
    """
    digest = sha256(raw)
    begun = await context.store.transact(_begin, digest, context.clock())
    try:
        yield begun
    except BaseException:
        with suppress(KeypostError):
            await context.store.run(take_back, raw)
        raise


def end_count(store: KeyStore, opening: Opening) -> None:
    """Forget the attempts at an envelope; call it in the transaction that settles it."""
    store.attempts.end(sha256(opening.raw))


def give_up(store: KeyStore, opening: Opening) -> Outcome:
    """Set an envelope aside unopened. Call it within a transaction."""
    sentence = "this device ended again and again while it took the message in, and did not open it again"
    outcome = Outcome(Fate.SET_ASIDE, error=DeliveredTooOftenError(sentence))
    end_count(store, opening)
    set_aside(store, opening, outcome)
    return outcome


def _begin(store: KeyStore, digest: bytes, now: int) -> int:
    return store.attempts.begin(digest, now)


def take_back(store: KeyStore, raw: bytes) -> None:
    """Count an attempt at an envelope less: it came to its end, or was none of the envelope's."""
    store.attempts.take_back(sha256(raw))
