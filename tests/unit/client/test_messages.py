from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client import ClockWrongError
from keypost.clock import DAY, MINUTE
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.protocol.errors import SuiteRefusedError
from keypost.protocol.suites import STRONG, WEAK
from support.people import FOR_EVER
from support.simulation import failing
from support.surfaces import asyncio_only

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_message_to_somebody_offline_takes_all_fourteen_steps(alice: Any, bob: Any) -> None:
    sent = await alice.client.send("bob", "Hello, Bob")
    assert alice.numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert (sent.counter, sent.new_session) == (1, True)
    assert dict(sent.rsa_operations) == {"seal": 1, "sign": 1}
    [message] = await bob.inbox()
    assert bob.numbers() == [1, 8, 9, 10, 11, 12, 13, 14]
    assert message.text == "Hello, Bob"
    assert message.sender == alice.client.address
    assert (message.message_id, message.counter, message.key_id) == (sent.message_id, 1, sent.key_id)
    assert (message.redelivered, message.missed, message.file) == (False, 0, None)
    assert {step.actor for step in alice.steps} == {str(alice.client.address)}


async def test_a_second_message_costs_no_rsa_operation_and_no_negotiation(alice: Any, bob: Any) -> None:
    first = await alice.client.send("bob", "one")
    alice.steps.clear()
    second = await alice.client.send("bob", b"two")
    assert dict(second.rsa_operations) == {}
    assert (second.new_session, second.key_id, second.counter) == (False, first.key_id, 2)
    assert alice.numbers() == [2, 3, 7]
    messages = await bob.inbox()
    assert [message.body for message in messages] == [b"one", b"two"]
    assert messages[1].media_type == "application/octet-stream"
    assert bob.numbers() == [1, *range(8, 15), 8, 9, 14]


async def test_the_answer_goes_under_the_same_session_key(alice: Any, bob: Any) -> None:
    sent = await alice.client.send("bob", "ping")
    await bob.inbox()
    answer = await bob.client.send("alice", "pong")
    assert (answer.key_id, answer.new_session) == (sent.key_id, False)
    assert dict(answer.rsa_operations) == {"seal": 1, "sign": 1}
    again = await bob.client.send("alice", "pong again")
    assert dict(again.rsa_operations) == {}
    assert [message.text for message in await alice.inbox()] == ["pong", "pong again"]


async def test_bob_does_not_answer_under_a_session_that_he_has_not_opened(alice: Any, bob: Any) -> None:
    sent = await alice.client.send("bob", "ping")
    own = await bob.client.send("alice", "crossing")
    assert own.key_id != sent.key_id
    assert own.new_session
    [message] = await bob.inbox()
    assert message.text == "ping"
    assert [message.text for message in await alice.inbox()] == ["crossing"]


async def test_rotation_tells_the_peer_at_once_and_hands_out_nothing(alice: Any, bob: Any) -> None:
    first = await alice.client.send("bob", "before")
    rotated = await alice.client.rotate("bob")
    assert rotated.new_session
    assert rotated.key_id != first.key_id
    assert (await alice.client.send("bob", "after")).key_id == rotated.key_id
    assert [message.text for message in await bob.inbox()] == ["before", "after"]
    assert (await bob.client.send("alice", "answer")).key_id == rotated.key_id


async def test_a_session_ends_after_the_rotation_period(alice: Any, bob: Any, clock: ManualClock) -> None:
    first = await alice.client.send("bob", "one")
    clock.advance(7 * DAY)
    second = await alice.client.send("bob", "two")
    assert second.key_id != first.key_id
    assert [message.text for message in await bob.inbox()] == ["one", "two"]


async def test_what_was_lost_on_the_way_is_sent_again_with_the_same_id(
    alice: Any, bob: Any, services: Services
) -> None:
    services.lost_answers["Send"] = 2
    sent = await alice.client.send("bob", "once")
    ids = {envelope_pb2.Header.FromString(request.envelope.header).message_id for request in services.requests["Send"]}
    assert (len(services.requests["Send"]), ids) == (3, {sent.message_id.bytes})
    assert [message.text for message in await bob.inbox()] == ["once"]


async def test_a_message_of_unknown_outcome_goes_out_before_the_next_one(
    impatient: Any, bob: Any, services: Services
) -> None:
    alice = impatient
    services.lost_answers["Send"] = FOR_EVER
    with pytest.raises(UnreachableError):
        await alice.client.send("bob", "first")
    assert alice.reasons("waiting") == ["UNREACHABLE"]
    services.lost_answers["Send"] = 0
    sent = await alice.client.send("bob", "second")
    assert sent.counter == 2
    assert [(message.text, message.counter) for message in await bob.inbox()] == [("first", 1), ("second", 2)]


async def test_a_message_survives_the_crash_of_its_sender(
    impatient: Any, bob: Any, services: Services, open_client: Any
) -> None:
    services.faults["Send"] = [failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * FOR_EVER
    with pytest.raises(RefusedError, match="MAILBOXES_UNAVAILABLE"):
        await impatient.client.send("bob", "first")
    await impatient.client.close()
    services.faults["Send"] = []
    again = await open_client("alice", bundle=None)
    await again.client.send("bob", "second")
    assert [(message.text, message.counter) for message in await bob.inbox()] == [("first", 1), ("second", 2)]


async def test_a_message_that_is_refused_for_good_does_not_block_the_next(
    alice: Any, bob: Any, services: Services
) -> None:
    services.faults["Send"] = [failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")]
    with pytest.raises(RefusedError) as caught:
        await alice.client.send("bob", "too much")
    assert caught.value.reason == "MAILBOX_FULL"
    await alice.client.send("bob", "now")
    [message] = await bob.inbox()
    assert (message.text, message.missed) == ("now", 1)


async def test_what_waited_and_is_refused_later_is_given_up_and_told(
    impatient: Any, services: Services, bob: Any
) -> None:
    alice = impatient
    services.faults["Send"] = [failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * FOR_EVER
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "first")
    services.faults["Send"] = [failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")]
    await alice.client.send("bob", "second")
    assert alice.reasons("error") == ["MAILBOX_FULL"]
    assert [message.text for message in await bob.inbox()] == ["second"]


@asyncio_only  # threads that send at once have no order among themselves
async def test_messages_sent_at_once_keep_their_order(alice: Any, bob: Any) -> None:
    await asyncio.gather(*(alice.client.send("bob", str(number)) for number in range(8)))
    messages = await bob.inbox()
    assert [message.text for message in messages] == [str(number) for number in range(8)]
    assert [message.missed for message in messages] == [0] * 8


async def test_a_message_that_is_held_up_is_not_overtaken(alice: Any, bob: Any, services: Services) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_context: Any) -> None:
        begun.set()
        await go_on.wait()

    services.faults["Send"] = [slow]
    async with asyncio.timeout(20):
        first = asyncio.create_task(alice.client.send("bob", "first"))
        await begun.wait()
        second = asyncio.create_task(alice.client.send("bob", "second"))
        overtaken, _ = await asyncio.wait([second], timeout=0.2)
        assert not overtaken
        go_on.set()
        await asyncio.gather(first, second)
    assert [message.text for message in await bob.inbox()] == ["first", "second"]


async def test_an_unknown_recipient_is_said_and_leaves_no_gap(alice: Any, bob: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        await alice.client.send("nobody", "hello")
    assert caught.value.reason == "USER_NOT_FOUND"
    await alice.client.send("bob", "hello")
    assert [message.counter for message in await bob.inbox()] == [1]


@pytest.mark.parametrize(("recipient", "body"), [("alice", "me"), ("bob", b"x" * (224 * 1024 + 1)), ("B O B", "x")])
async def test_what_cannot_be_sent_is_said_before_anything_happens(
    alice: Any, services: Services, recipient: str, body: str
) -> None:
    with pytest.raises(InvalidArgumentError):
        await alice.client.send(recipient, body)
    assert services.requests["Send"] == []


async def test_the_largest_message_fits(alice: Any, bob: Any) -> None:
    body = bytes(range(256)) * 896
    await alice.client.send("bob", body)
    [message] = await bob.inbox()
    assert message.body == body
    with pytest.raises(InvalidArgumentError):
        _ = message.text


async def test_messages_are_handed_out_while_the_receiver_is_online(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "0")
    texts: list[str] = []
    async with asyncio.timeout(20):
        async for message in bob.client.receive():
            texts.append(message.text)
            if len(texts) == 3:
                break
            await alice.client.send("bob", str(len(texts)))
    assert texts == ["0", "1", "2"]


async def test_the_weak_suite_is_off_by_default(alice: Any, open_client: Any) -> None:
    with pytest.raises(SuiteRefusedError):
        await alice.client.enroll("carol", suite=WEAK)
    carol = await open_client("carol", minimum_suite=WEAK)
    await carol.client.enroll("carol", suite=WEAK)
    with pytest.raises(SuiteRefusedError):
        await alice.client.send("carol", "hello")


async def test_the_weak_suite_takes_the_same_steps_and_says_so(open_client: Any, caplog: Any) -> None:
    carol = await open_client("carol", minimum_suite=WEAK)
    dave = await open_client("dave", minimum_suite=WEAK)
    with caplog.at_level(logging.WARNING, "keypost"):
        await carol.client.enroll("carol", suite=WEAK)
        await dave.client.enroll("dave", suite=WEAK)
        await carol.client.send("dave", "hello")
    assert [message.text for message in await dave.inbox()] == ["hello"]
    assert carol.numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert dave.numbers() == [1, *range(8, 15)]
    assert set(carol.reasons("warning")) == {"WEAK_SUITE"}
    assert "WEAK_SUITE" in caplog.text
    sealed = next(step for step in carol.steps if step.step == 5)
    assert sealed.facts["sealed_key_bytes"] == "128"


async def test_no_step_and_no_event_holds_a_plaintext(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "a word to be kept")
    await bob.inbox()
    shown = repr(alice.steps + bob.steps + alice.events + bob.events)
    assert "a word to be kept" not in shown
    assert "a word" not in repr(await alice.client.send("bob", "a word"))


async def test_a_message_that_is_not_handled_comes_again_marked(alice: Any, bob: Any, open_client: Any) -> None:
    await alice.client.send("bob", "one")
    await alice.client.send("bob", "two")
    iterator = bob.client.receive(follow=False)
    assert (await anext(iterator)).text == "one"
    second = await anext(iterator)
    await iterator.aclose()
    assert (second.text, second.redelivered) == ("two", False)
    await bob.client.close()
    again = await open_client("bob", bundle=None)
    [message] = await again.inbox()
    assert (message.text, message.redelivered) == ("two", True)
    assert await again.inbox() == []


async def test_set_handled_needs_no_further_step(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "one")
    iterator = bob.client.receive()
    await bob.client.set_handled(await anext(iterator))
    await iterator.aclose()
    assert await bob.inbox() == []


async def test_one_client_receives_once_at_a_time(bob: Any, alice: Any) -> None:
    await alice.client.send("bob", "one")
    iterator = bob.client.receive()
    await anext(iterator)
    with pytest.raises(InvalidArgumentError, match="already"):
        await bob.inbox()
    await iterator.aclose()


async def test_a_clock_far_off_the_cas_is_said(open_client: Any, clock: ManualClock) -> None:
    person = await open_client("carol", clock=lambda: clock() + 6 * MINUTE)
    with pytest.raises(ClockWrongError) as caught:
        await person.client.enroll("carol")
    assert caught.value.reason == "CLOCK_WRONG"


async def test_suites_of_a_realm_are_kept_to(services: Services, open_client: Any) -> None:
    person = await open_client("carol", minimum_suite=STRONG)
    assert services.requests["Enroll"] == []
    with pytest.raises(SuiteRefusedError):
        await person.client.enroll("carol", suite=WEAK)
    assert services.requests["BeginEnrollment"] == []
