"""What cannot be opened yet waits, and is opened as soon as it can be."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc

from keypost.client.look_ups import AT_ONCE, LookUps
from keypost.client.opening import Fate
from keypost.client.receiving import Arrival
from keypost.clock import DAY, HOUR, MINUTE
from keypost.errors import UnreachableError
from support.hostile import change_extension, claiming_revision, tampering
from support.simulation import failing

if TYPE_CHECKING:
    import pytest

    from support.clock import ManualClock
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_directory_that_is_away_is_asked_once_a_user_and_batch(
    alice: Any, bob: Any, services: Services, open_client: Any
) -> None:
    carol = await open_client("carol")
    await carol.client.enroll("carol")
    for sender in (alice, carol, alice, carol):
        await sender.client.send("bob", "patience")
    await bob.client.keys("bob")
    deliveries = [delivery.envelope for delivery in services.mailboxes[bob.client.address]]
    receiving, asked = bob.client._parts.receiving, services.requests["GetKeyInfo"]
    del asked[:]
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 20
    arrivals = [Arrival(envelope, services.realm.clock(), 0) for envelope in deliveries]
    outcomes = await receiving.take(arrivals, bob.client._parts.waiting.settle_earlier)
    assert [outcome.fate for outcome in outcomes] == [Fate.WAITS] * 4
    assert Counter(request.username for request in asked) == {"alice": 5, "carol": 5}
    services.faults["GetKeyInfo"] = []
    del asked[:]
    await bob.client._parts.waiting.retry()
    assert Counter(request.username for request in asked) == {"alice": 1, "carol": 1}
    assert len(await bob.inbox()) == 4


async def test_once_the_directory_does_not_answer_nobody_else_in_the_batch_waits_for_it(
    bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def get(username: str, **_: Any) -> None:
        asked.append(username)
        raise UnreachableError("no answer", service="directory")

    monkeypatch.setattr(bob.client._parts.records, "get", get)
    wanted = {f"user{number}": 1 for number in range(3 * AT_ONCE)}
    answers = await LookUps(bob.client._parts.records).all(wanted, "bob")
    assert len(asked) == AT_ONCE
    assert {type(answer.failure) for answer in answers.values()} == {UnreachableError}


async def test_one_message_that_relies_on_what_never_was_keeps_no_other_from_being_opened(
    alice: Any, bob: Any, services: Services
) -> None:
    await alice.client.send("bob", "one")
    await alice.client.send("bob", "two")
    await bob.client.keys("alice")
    mailbox = services.mailboxes[bob.client.address]
    mailbox[0].envelope = claiming_revision(mailbox[0].envelope, 10**6)
    arrivals = [Arrival(delivery.envelope, services.realm.clock(), services.realm.clock()) for delivery in mailbox]
    mailbox[:] = []
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 5
    outcomes = await bob.client._parts.receiving.take(arrivals, bob.client._parts.waiting.settle_earlier)
    # As long as nobody can be asked, the second may not be handed out before the first; afterwards it is.
    assert [outcome.fate for outcome in outcomes] == [Fate.WAITS, Fate.WAITS]
    services.faults["GetKeyInfo"] = []
    assert [message.text for message in await bob.inbox()] == ["two"]


async def test_a_message_waits_while_the_directory_is_away(alice: Any, bob: Any, services: Services) -> None:
    await bob.client.keys("bob")
    await alice.client.send("bob", "patience")
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 10
    assert await bob.inbox() == []
    assert bob.reasons("waiting") == ["CA_UNAVAILABLE"]
    assert services.mailboxes[bob.client.address] == []
    services.faults["GetKeyInfo"] = []
    [message] = await bob.inbox()
    assert message.text == "patience"
    assert bob.numbers()[1:] == [8, 9, 10, 11, 12, 13, 14]


async def test_what_comes_after_a_message_that_waits_is_not_handed_out_before_it(
    alice: Any, bob: Any, services: Services
) -> None:
    parts, mailbox = bob.client._parts, services.mailboxes[bob.client.address]
    for number in range(1, 5):
        await alice.client.send("bob", f"{number}")
    first, second, third, fourth = (Arrival(each.envelope, each.accept_time, each.accept_time) for each in mailbox)
    mailbox[:] = []
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 50
    for arrival in (first, second):
        await parts.receiving.take([arrival], parts.waiting.settle_earlier)
    services.faults["GetKeyInfo"] = []
    # With the directory back the third could be opened at once, and nobody has tried the first ones again yet.
    outcomes = await parts.receiving.take([third, fourth], parts.waiting.settle_earlier)
    assert [outcome.fate for outcome in outcomes] == [Fate.KEPT] * 2
    assert [message.text for message in await bob.inbox()] == ["1", "2", "3", "4"]


async def test_what_waits_behind_another_goes_with_it(alice: Any, bob: Any, services: Services) -> None:
    parts, mailbox = bob.client._parts, services.mailboxes[bob.client.address]
    await alice.client.send("bob", "1")
    assert [message.text for message in await bob.inbox()] == ["1"]
    await alice.client.renew()
    await alice.client.send("bob", "2")
    await alice.client.send("bob", "3")
    second, third = (Arrival(each.envelope, each.accept_time, each.accept_time) for each in mailbox)
    mailbox[:] = []
    stale = claiming_revision(third.raw, 1)  # what is held would do for its header
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 50
    for arrival in (second, replace(third, raw=stale), third):
        (outcome,) = await parts.receiving.take([arrival], parts.waiting.settle_earlier)
        assert outcome.fate is Fate.WAITS
    assert bob.reasons("waiting") == ["CA_UNAVAILABLE", "EARLIER_WAITS", "CA_UNAVAILABLE"]
    services.faults["GetKeyInfo"] = []
    assert [message.text for message in await bob.inbox()] == ["2", "3"]


async def test_a_message_that_waits_is_opened_as_soon_as_a_newer_record_is_known(
    alice: Any, bob: Any, services: Services
) -> None:
    stale = services.realm.key_info("alice")
    await alice.client.renew()
    await alice.client.send("bob", "signed by the new key")
    services.serve_key_info = lambda name, info: stale if name == "alice" else info
    seen: list[str] = []

    async def receive() -> None:
        async for message in bob.client.receive():
            seen.append(message.text)
            return

    async with asyncio.timeout(20):
        task = asyncio.create_task(receive())
        await bob.until(lambda: "RECORD_BEHIND" in bob.reasons("waiting"))
        services.serve_key_info = lambda _name, info: info
        await bob.client._parts.records.get("alice", refresh=True)
        await task
    assert seen == ["signed by the new key"]


async def test_an_outage_of_one_record_is_no_fault_of_the_message(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "patience")
    mailbox = services.mailboxes[bob.client.address]
    arrivals = [Arrival(delivery.envelope, delivery.accept_time, clock()) for delivery in mailbox]
    mailbox[:] = []
    unavailable = failing(UNAVAILABLE, "CA_UNAVAILABLE")

    async def not_bob(context: Any) -> None:
        if services.requests["GetKeyInfo"][-1].username == "bob":
            await unavailable(context)

    clock.advance(HOUR)
    services.faults["GetKeyInfo"] = [not_bob] * 40
    [outcome] = await bob.client._parts.receiving.take(arrivals, bob.client._parts.waiting.settle_earlier)
    assert outcome.fate is Fate.WAITS
    clock.advance(HOUR)
    await bob.client._parts.waiting.retry()
    assert bob.reasons("set_aside") == []
    services.faults["GetKeyInfo"] = []
    assert [message.text for message in await bob.inbox()] == ["patience"]


async def test_a_clock_that_is_behind_is_no_fault_of_the_message(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "from the future")
    services.deliver = tampering(change_extension(sign_time=clock() + 30 * MINUTE))
    assert await bob.inbox() == []
    clock.advance(10 * MINUTE)
    await bob.client._parts.records.get("alice", refresh=True)
    assert await bob.inbox() == []
    assert (bob.reasons("waiting"), bob.reasons("set_aside")) == (["CLOCK_AHEAD"], [])
    clock.advance(20 * MINUTE)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["SIGNATURE_INVALID"]


async def test_a_message_waits_no_longer_than_the_age_limit(
    alice: Any, bob: Any, services: Services, clock: ManualClock, open_client: Any
) -> None:
    await alice.client.send("bob", "too late")
    await bob.client.close()
    manual = await open_client("bob", bundle=None, automatic_renewal=False)
    await manual.client.keys("bob")
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 10
    assert await manual.inbox() == []
    services.faults["GetKeyInfo"] = []
    clock.advance(40 * DAY)
    assert await manual.inbox() == []
    assert manual.reasons("set_aside") == ["MESSAGE_TOO_OLD"]


async def test_what_waited_when_its_key_ended_is_still_opened(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "came in time")
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 20
    assert await bob.inbox() == []
    services.faults["GetKeyInfo"] = []
    signer = alice.client._parts.identity.current.fingerprint
    await bob.client._parts.context.store.run(
        lambda store: store.records.close_keys([signer], clock(), store.waiting.newest())
    )
    await alice.client.renew()
    assert [message.text for message in await bob.inbox()] == ["came in time"]
