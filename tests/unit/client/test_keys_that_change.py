"""Keys of the peer that change while messages are on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import MINUTE
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    RecordExpiredError,
)
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

STALE_SESSION = failing(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_STALE")


async def test_stale_keys_are_negotiated_anew_with_the_same_id(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "one")
    await bob.client.renew()
    sent = await alice.client.send("bob", "two")
    assert sent.new_session
    last = services.requests["Send"][-2:]
    assert last[0].envelope.header != last[1].envelope.header
    assert sent.counter == 2
    assert alice.numbers()[-6:] == [2, 3, 4, 5, 6, 7]
    assert [message.text for message in await bob.inbox()] == ["one", "two"]


async def test_a_message_that_is_held_behind_nothing_is_handed_over_again(
    alice: Any, bob: Any, services: Services
) -> None:
    """Delivery holds it where one response has no room for the records of all recipients."""
    await alice.client.send("bob", "one")
    await bob.client.renew()
    services.held = 2
    await alice.client.send("bob", "two")
    assert services.held == 0
    assert [message.text for message in await bob.inbox()] == ["one", "two"]


@pytest.mark.usefixtures("bob")
async def test_stale_keys_without_a_newer_record_are_not_asked_about_for_ever(alice: Any, services: Services) -> None:
    await alice.client.send("bob", "one")
    stale, real = services.realm.key_info("bob"), services.realm.key_info
    services.realm.users["bob"].revision += 1
    services.realm.key_info = lambda name, **_: stale if name == "bob" else real(name)  # type: ignore[method-assign]
    with pytest.raises(RefusedError) as caught:
        await alice.client.send("bob", "two")
    assert caught.value.reason == "STALE_KEYS"
    assert caught.value.retriable
    assert len(services.requests["Send"]) == 7


async def test_a_message_stays_in_the_outbox_unless_it_was_refused_itself(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    async def unexpected(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, "a proxy says so")

    services.faults["Send"] = [unexpected]
    with pytest.raises(RefusedError, match="unexpected"):
        await alice.client.send("bob", "one")
    assert alice.reasons("waiting") == ["UNEXPECTED_ANSWER"]
    services.faults["Send"] = [unexpected]
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "waits behind it")
    await bob.client.renew()
    real = services.realm.key_info

    def of_the_past(name: str, **changes: Any) -> Any:
        past = {"this_update": clock() - MINUTE, "next_update": clock()}
        return real(name, **(past if name == "bob" else changes))

    clock.advance(2 * MINUTE)
    services.realm.key_info = of_the_past  # type: ignore[assignment,method-assign]
    with pytest.raises(RecordExpiredError):
        await alice.client.send("bob", "waits too")
    assert alice.reasons("waiting") == ["UNEXPECTED_ANSWER", "UNEXPECTED_ANSWER", "RECORD_EXPIRED"]
    services.realm.key_info = real  # type: ignore[method-assign]
    sent = await alice.client.send("bob", "two")
    assert sent.counter == 4
    texts = [message.text for message in await bob.inbox()]
    assert texts == ["one", "waits behind it", "waits too", "two"]


async def test_a_message_that_was_refused_is_not_kept(alice: Any, bob: Any, services: Services) -> None:
    services.faults["Send"] = [failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")]
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "one")
    assert alice.reasons("waiting") == []
    await alice.client.send("bob", "two")
    assert [message.text for message in await bob.inbox()] == ["two"]


async def test_a_session_that_delivery_finds_stale_is_negotiated_anew_with_the_same_id(
    alice: Any, bob: Any, services: Services
) -> None:
    first = await alice.client.send("bob", "one")
    services.faults["Send"] = [STALE_SESSION]
    sent = await alice.client.send("bob", "two")
    assert sent.new_session
    assert sent.key_id != first.key_id
    old, new = (envelope_pb2.Header.FromString(request.envelope.header) for request in services.requests["Send"][-2:])
    assert (old.message_id, old.counter, old.key_id) == (new.message_id, 2, first.key_id)
    assert alice.reasons("waiting") == []
    assert (await alice.client.send("bob", "three")).key_id == sent.key_id
    assert [message.text for message in await bob.inbox()] == ["one", "two", "three"]


async def test_a_new_session_that_delivery_finds_stale_leaves_the_message_in_the_outbox(
    alice: Any, bob: Any, services: Services
) -> None:
    services.faults["Send"] = [STALE_SESSION]
    with pytest.raises(RefusedError) as caught:
        await alice.client.send("bob", "one")
    assert caught.value.reason == "SESSION_STALE"
    assert len(services.requests["Send"]) == 1
    assert alice.reasons("waiting") == ["SESSION_STALE"]
    await alice.client.send("bob", "two")
    assert [message.text for message in await bob.inbox()] == ["one", "two"]


async def test_a_key_of_the_peer_that_expires_makes_a_new_session(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    pair = realm.new_pair(realm.new_address("bob"))
    own = bob.client._parts.identity.current
    short = realm.signed_request(pair, pb.KEY_REQUEST_KIND_APPROVE, own, expire_time=clock() + 30 * MINUTE)
    realm.record(short)
    await bob.client.keys("bob")
    first = await bob.client.send("alice", "a session of Bob's")
    await alice.inbox()
    answer = await alice.client.send("bob", "sealed to two devices")
    assert answer.key_id == first.key_id
    clock.advance(31 * MINUTE)
    later = await alice.client.send("bob", "sealed to one device")
    assert later.new_session
    assert len(services.requests["Send"][-1].envelope.key_extension.sealed_keys) == 1
    assert [message.text for message in await bob.inbox()] == ["sealed to two devices", "sealed to one device"]
