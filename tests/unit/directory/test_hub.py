from __future__ import annotations

import asyncio

import pytest

from keypost.keys.v1.key_info_pb2 import KeyEvent
from keypost_services.directory.key_events.hub import MOST_IN_BATCH, EventHub, EventsForgottenError


def events(first: int, last: int) -> list[KeyEvent]:
    return [KeyEvent(sequence=sequence, username="alice") for sequence in range(first, last + 1)]


def sequences(hub: EventHub, after: int) -> list[int]:
    return [event.sequence for event in hub.after(after, hub.generation)]


def test_events_after_a_sequence_come_in_order() -> None:
    hub = EventHub(10)
    hub.begin(7)
    hub.publish(events(8, 12))
    assert hub.newest == 12
    assert sequences(hub, 7) == [8, 9, 10, 11, 12]
    assert sequences(hub, 10) == [11, 12]
    assert sequences(hub, 12) == []


def test_a_batch_is_bounded() -> None:
    hub = EventHub(1_000)
    hub.begin(0)
    hub.publish(events(1, 300))
    assert sequences(hub, 0) == list(range(1, MOST_IN_BATCH + 1))


def test_the_ring_forgets_and_says_so() -> None:
    hub = EventHub(3)
    hub.begin(0)
    hub.publish(events(1, 5))
    assert sequences(hub, 2) == [3, 4, 5]
    with pytest.raises(EventsForgottenError):
        sequences(hub, 1)


def test_what_was_before_the_beginning_is_forgotten() -> None:
    hub = EventHub(3)
    hub.begin(7)
    with pytest.raises(EventsForgottenError):
        sequences(hub, 6)


def test_a_watcher_of_an_earlier_generation_is_told() -> None:
    hub = EventHub(3)
    hub.begin(7)
    generation = hub.generation
    hub.begin(7)
    with pytest.raises(EventsForgottenError):
        hub.after(7, generation)


async def test_whoever_waits_is_woken_by_an_event() -> None:
    hub = EventHub(3)
    hub.begin(0)
    waiting = asyncio.create_task(hub.wait_beyond(0, hub.generation))
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.publish(events(1, 1))
    await asyncio.wait_for(waiting, 5)


async def test_whoever_waits_is_woken_by_a_new_beginning() -> None:
    hub = EventHub(3)
    hub.begin(5)
    waiting = asyncio.create_task(hub.wait_beyond(5, hub.generation))
    await asyncio.sleep(0)
    hub.begin(0)
    await asyncio.wait_for(waiting, 5)


async def test_a_replica_a_moment_behind_is_waited_for() -> None:
    hub = EventHub(3)
    hub.begin(0)
    waiting = asyncio.create_task(hub.wait_until(1, 5))
    await asyncio.sleep(0)
    hub.publish(events(1, 1))
    assert await waiting
    assert not await hub.wait_until(2, 0.01)
