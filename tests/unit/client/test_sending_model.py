"""Whatever goes wrong in whatever order: each message is stored once, none overtakes another, none is lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.client import early_keeper, lanes, pipeline
from keypost.errors import KeypostError, RefusedError
from keypost.protocol.identifiers import conversation_of
from support.delivery_model import Fate, Sender

if TYPE_CHECKING:
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import Conversation

LONG = 60
NAMES = ("bob", "carol")


async def outcome(sender: Sender, name: str, body: str) -> tuple[str, Any]:
    try:
        return name, await sender.sending.send(name, sender.text(body))
    except KeypostError as error:
        return name, error


@dataclass(frozen=True)
class Life:
    """What goes wrong.

    Attributes:
        fates: What becomes of the envelopes.
        turns: How long delivery takes for each batch.
        waves: To whom is sent at once, one wave after the other.
        crashes: In which waves the client crashes.
        knows_streams: Whether delivery has SendStream.
        holds_after_known: Whether it holds what follows a message that it has.
        away: In which look-ups the directory is away.
        keep_after: After how many seconds a message that waits is kept unsealed.
    """

    fates: list[Fate]
    turns: list[int]
    waves: list[tuple[str, ...]]
    crashes: set[int]
    knows_streams: bool
    holds_after_known: bool
    away: list[bool]
    keep_after: float


async def live(life: Life) -> None:
    waves, crashes = life.waves, life.crashes
    sender = Sender(*NAMES)
    sender.delivery.fates = iter(life.fates)
    sender.delivery.turns = iter(life.turns)
    sender.delivery.knows_streams = life.knows_streams
    sender.delivery.holds_after_known = life.holds_after_known
    sender.away = iter(life.away)
    await sender.start()
    stored: list[tuple[str, bytes]] = []
    for number, wave in enumerate(waves):
        calls = [asyncio.create_task(outcome(sender, name, f"{number}-{place}")) for place, name in enumerate(wave)]
        if number in crashes:
            # Somewhere in the middle of it: after as many turns of the loop as there are messages.
            for _ in range(3 * len(wave)):
                await asyncio.sleep(0)
            done = [call.result() for call in calls if call.done()]
            await sender.crash()
            await asyncio.gather(*calls)
            await sender.start()
        else:
            done = await asyncio.gather(*calls)
        for name, result in done:
            if isinstance(result, KeypostError):
                assert isinstance(result, RefusedError)
                assert result.reason in {"MAILBOX_FULL", "SESSION_STALE", "STALE_KEYS"}
            else:
                stored.append((name, result.message_id.bytes))
    while await sender.sending.flush():
        pass
    for name in NAMES:
        sender.delivery.check(name)
        there = {header.message_id for header in sender.delivery.mailboxes.get(name, [])}
        assert {message_id for to, message_id in stored if to == name} <= there
        counters = [header.counter for header in sender.delivery.mailboxes.get(name, [])]
        # By the worker: it may still be taking out of the outbox what is stored.
        drawn = await sender.worker.run(_next_send, conversation_of("alice", name)) - 1
        # What has a counter is stored, but for what was refused for good.
        assert drawn - len(counters) <= len(sender.delivery.refused)
    await sender.sending.close()
    await sender.worker.close()


def _next_send(store: KeyStore, conversation: Conversation) -> int:
    return store.counters.next_send(conversation)


LIVES = st.builds(
    Life,
    fates=st.lists(st.sampled_from([*Fate, Fate.STORED, Fate.STORED]), max_size=40),
    turns=st.lists(st.integers(0, 30), max_size=20),
    waves=st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=14).map(tuple), min_size=1, max_size=4),
    crashes=st.sets(st.integers(0, 3), max_size=2),
    knows_streams=st.booleans(),
    holds_after_known=st.booleans(),
    away=st.lists(st.booleans(), max_size=30),
    keep_after=st.sampled_from([0.0, 0.001, 1.0]),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(life=LIVES)
def test_each_message_is_stored_once_in_order_whatever_goes_wrong(life: Life) -> None:
    with (
        mock.patch.object(lanes, "MOST_TOGETHER", 2),
        mock.patch.object(lanes, "MOST_UNANSWERED", 5),
        mock.patch.object(early_keeper, "KEEP_AFTER", life.keep_after),
        mock.patch.object(pipeline, "MOST_IN_BATCH", 3),
        mock.patch.object(pipeline, "MOST_UNDER_WAY", 6),
    ):
        asyncio.run(asyncio.wait_for(live(life), LONG))
