"""What waits is handed out in the order of sending, whatever changes while it is tried: records, and the clock."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client.opening import Fate
from keypost.client.receiving import Arrival, Receiving
from keypost.clock import MINUTE
from support.clock import START, ManualClock
from support.hostile import claiming_revision
from support.simulation import failing

if TYPE_CHECKING:
    from support.simulation import Services

PAGE = 64
"""How many are tried at once."""
MANY = PAGE + 6
TEXTS = [str(number) for number in range(MANY)]


async def _sent(sender: Any, receiver: Any, services: Services) -> list[Arrival]:
    """Send many, and take them out of the mailbox."""
    for text in TEXTS:
        await sender.client.send("bob", text)
    mailbox = services.mailboxes[receiver.client.address]
    arrivals = [Arrival(delivery.envelope, delivery.accept_time, services.realm.clock()) for delivery in mailbox]
    mailbox[:] = []
    return arrivals


async def _take(receiver: Any, arrivals: list[Arrival]) -> set[Fate]:
    parts = receiver.client._parts
    return {outcome.fate for outcome in await parts.receiving.take(arrivals, parts.waiting.settle_earlier)}


async def _waiting(receiver: Any) -> int:
    return len(await receiver.client._parts.context.store.run(lambda store: store.waiting.page()))


async def _kept(receiver: Any) -> list[str]:
    return [message.text for message in await receiver.inbox()]


def _behind_for(services: Services, times: int) -> None:
    """Have the directory answer once the present record of Alice is an old one, so many times."""
    stale, asked = services.realm.key_info("alice"), itertools.count()
    services.serve_key_info = lambda name, info: stale if name == "alice" and next(asked) < times else info


@pytest.fixture
async def ahead(open_client: Any) -> Any:
    """Alice, whose clock is a millisecond further ahead than Bob puts up with."""
    clock = ManualClock(START + 5 * MINUTE)
    person = await open_client("alice", clock=clock)
    await person.client.enroll("alice")
    clock.advance(1)
    return person


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> list[int]:
    """Has the clock go on by a millisecond as envelopes are read: after how many, the list says."""
    after: list[int] = []
    read, count = Receiving._read, 0

    def read_and_go_on(receiving: Receiving, raw: bytes) -> Any:
        nonlocal count
        count += 1
        if count in after:
            clock.advance(1)
        return read(receiving, raw)

    monkeypatch.setattr(Receiving, "_read", read_and_go_on)
    return after


async def test_a_record_that_comes_between_two_pages_opens_the_first_one_first(
    alice: Any, bob: Any, services: Services
) -> None:
    await bob.client.keys("alice")
    _behind_for(services, 2)
    await alice.client.renew()
    arrivals = await _sent(alice, bob, services)
    assert await _take(bob, arrivals) == {Fate.WAITS}
    # The first page is told what was, the second what is.
    await bob.client._parts.waiting.retry()
    assert await _waiting(bob) == 0
    assert await _kept(bob) == TEXTS


async def test_a_record_that_comes_between_two_pages_opens_the_first_one_first_before_what_comes_now(
    alice: Any, bob: Any, services: Services
) -> None:
    await bob.client.keys("alice")
    _behind_for(services, 2)
    await alice.client.renew()
    *arrivals, last = await _sent(alice, bob, services)
    assert await _take(bob, arrivals) == {Fate.WAITS}
    # By what is held it might be opened: what waits of its user is tried before, page by page.
    await _take(bob, [replace(last, raw=claiming_revision(last.raw, 1))])
    assert await _waiting(bob) == 1, "the last one alone: it names a revision that has not its key"
    assert await _kept(bob) == TEXTS[:-1]


async def test_a_revision_that_never_was_keeps_nothing_back_on_the_next_page(
    alice: Any, bob: Any, services: Services
) -> None:
    await bob.client.keys("alice")
    first, *others = await _sent(alice, bob, services)
    made_up = replace(first, raw=claiming_revision(first.raw, 10**6))
    services.faults["GetKeyInfo"] = [failing(grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")] * 50
    assert await _take(bob, [made_up, *others]) == {Fate.WAITS}
    services.faults["GetKeyInfo"] = []
    await bob.client._parts.waiting.retry()
    assert await _kept(bob) == TEXTS[1:]


async def test_a_clock_that_reaches_the_limit_within_a_batch_opens_none_before_an_earlier_one(
    ahead: Any, bob: Any, services: Services, reads: list[int]
) -> None:
    arrivals = await _sent(ahead, bob, services)
    reads.append(2)
    assert await _take(bob, arrivals[:4]) == {Fate.WAITS}
    assert bob.reasons("waiting") == ["CLOCK_AHEAD"] * 4
    # By now the clock has reached it: what comes finds the earlier ones opened.
    assert await _take(bob, arrivals[4:]) == {Fate.KEPT}
    assert await _kept(bob) == TEXTS


async def test_a_clock_that_reaches_the_limit_between_two_pages_opens_none_before_an_earlier_one(
    ahead: Any, bob: Any, services: Services, reads: list[int]
) -> None:
    assert await _take(bob, await _sent(ahead, bob, services)) == {Fate.WAITS}
    reads.append(MANY + PAGE)
    await bob.client._parts.waiting.retry()
    assert await _kept(bob) == TEXTS
