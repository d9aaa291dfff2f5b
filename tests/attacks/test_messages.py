"""What delivery could do to a message on its way, and what becomes of it at the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, MINUTE
from keypost.keys.v1 import key_info_pb2
from support.attacks import check_said, check_told, check_untold
from support.hostile import Peer, altered, change_header, claiming_revision, flip, tampering
from support.talk import text

if TYPE_CHECKING:
    from keypost.delivery.v1 import envelope_pb2 as pb
    from support.clock import ManualClock
    from support.hostile import Change
    from support.simulation import Services


def ciphertext(at: int) -> Change:
    def change(envelope: pb.Envelope) -> None:
        envelope.ciphertext = flip(envelope.ciphertext, at)

    return change


def no_sealed_keys(envelope: pb.Envelope) -> None:
    del envelope.key_extension.sealed_keys[:]


@pytest.mark.parametrize("at", [20, -16, -1], ids=["body", "tag", "end of tag"])
async def test_a_message_altered_on_the_way(alice: Any, bob: Any, services: Services, at: int) -> None:
    sent = await alice.client.send("bob", "altered on the way")
    services.deliver = tampering(ciphertext(at))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "DECRYPTION_FAILED")
    services.deliver = lambda delivery: delivery
    await alice.client.send("bob", "untouched")
    [message] = await bob.inbox()
    assert (message.text, message.key_id, message.missed) == ("untouched", sent.key_id, 1)
    assert services.mailboxes[bob.client.address] == []


@pytest.mark.parametrize("fields", [{"counter": 7}, {"send_time": 1}], ids=str)
async def test_a_header_altered_on_the_way(alice: Any, bob: Any, services: Services, fields: dict[str, int]) -> None:
    await alice.client.send("bob", "altered on the way")
    services.deliver = tampering(change_header(**fields))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "DECRYPTION_FAILED")


@pytest.mark.parametrize("field", ["realm", "sender", "key_id", "sender_revision", "recipient_revision"])
async def test_a_header_that_says_something_else_than_the_extension(bob: Any, services: Services, field: str) -> None:
    """What the header says is what the application is told; what was signed is the extension."""
    mallory = Peer.enroll(services, "mallory")
    lies: dict[str, Any] = {
        "sender": services.realm.approve(mallory.pair).address,
        "key_id": bytes(32),
        "realm": "example.net",
    }
    services.realm.users["bob"].revision += 1
    offer = mallory.offer("bob", realm=lies["realm"] if field == "realm" else None)
    header = {"realm": services.realm.realm} if field == "realm" else {field: lies.get(field, 1)}
    await mallory.put(bob.client.address, offer, text("believe the header"), **header)
    assert await bob.inbox() == []
    check_told(bob.reasons(), "HEADER_MISMATCH")


async def test_a_message_replayed(alice: Any, bob: Any, services: Services, open_client: Any) -> None:
    await alice.client.send("bob", "once")
    [delivery] = services.mailboxes[bob.client.address]
    await services.put(bob.client.address, delivery.envelope)
    assert [message.text for message in await bob.inbox()] == ["once"]
    await services.put(bob.client.address, delivery.envelope)
    assert await bob.inbox() == []
    await bob.client.close()
    again = await open_client("bob", bundle=None)
    await services.put(again.client.address, altered(delivery.envelope, no_sealed_keys))
    assert await again.inbox() == []
    assert services.mailboxes[again.client.address] == []
    check_untold(bob.reasons() + again.reasons())


async def test_a_message_dropped(alice: Any, bob: Any, services: Services) -> None:
    for number in range(4):
        await alice.client.send("bob", str(number))
    del services.mailboxes[bob.client.address][1:3]
    assert [(message.text, message.missed) for message in await bob.inbox()] == [("0", 0), ("3", 2)]


async def test_messages_out_of_order(alice: Any, bob: Any, services: Services) -> None:
    for number in range(3):
        await alice.client.send("bob", str(number))
    mailbox = services.mailboxes[bob.client.address]
    mailbox[1], mailbox[2] = mailbox[2], mailbox[1]
    told = [(message.text, message.counter, message.missed) for message in await bob.inbox()]
    assert told == [("0", 1, 0), ("2", 3, 1), ("1", 2, 0)]


async def test_a_message_for_somebody_else(alice: Any, services: Services, open_client: Any) -> None:
    carol = await open_client("carol")
    await carol.client.enroll("carol")
    bob = Peer.enroll(services, "bob")
    await alice.client.send("bob", "for Bob")
    [delivery] = services.mailboxes[bob.pair.address]
    await services.put(carol.client.address, delivery.envelope)
    assert await carol.inbox() == []
    check_told(carol.reasons(), "NOT_FOR_THIS_DEVICE")
    check_said(carol.events[0].sentence, "for another user")


async def test_an_own_message_sent_back(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "for Bob")
    [delivery] = services.mailboxes[bob.client.address]
    await services.put(alice.client.address, delivery.envelope)
    assert await alice.inbox() == []
    check_told(alice.reasons(), "OWN_MESSAGE")


async def test_a_message_of_another_realm(bob: Any, services: Services) -> None:
    mallory = Peer.enroll(services, "mallory")
    offer = mallory.offer("bob", realm="example.net")
    await mallory.put(bob.client.address, offer, text("hello from elsewhere"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "HEADER_MISMATCH")


async def test_a_message_backdated_beyond_the_age_limit(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "accepted long ago, says delivery")
    [delivery] = services.mailboxes[bob.client.address]
    delivery.accept_time -= services.realm.constants.age_limit + 1
    assert await bob.inbox() == []
    check_told(bob.reasons(), "MESSAGE_TOO_OLD")


async def test_a_message_kept_back_beyond_the_age_limit(bob: Any, services: Services, clock: ManualClock) -> None:
    mallory = Peer.enroll(services, "mallory")
    offer = mallory.offer("bob")
    accept_time = clock()
    clock.advance(services.realm.constants.age_limit + 1)
    # Delivery says that it came just now: the age of the session tells.
    for accepted in (accept_time, clock()):
        await mallory.put(bob.client.address, offer, text("kept back"), accept_time=accepted)
    assert await bob.inbox() == []
    check_told(bob.reasons("set_aside"), "MESSAGE_TOO_OLD")


async def test_a_time_of_delivery_in_the_future(
    alice: Any, bob: Any, services: Services, clock: ManualClock, open_client: Any
) -> None:
    await alice.client.send("bob", "accepted in a hundred years")
    await bob.client.close()
    manual = await open_client("bob", bundle=None, automatic_renewal=False)
    await manual.client.keys("bob")
    [delivery] = services.mailboxes[manual.client.address]
    delivery.accept_time += 36_500 * DAY
    services.serve_key_info = lambda name, info: key_info_pb2.KeyInfo() if name == "alice" else info
    assert await manual.inbox() == []
    check_told(manual.reasons(), "UNKNOWN_RECORD_KEY")
    clock.advance(80 * DAY)
    assert await manual.inbox() == []
    check_told(manual.reasons("set_aside"), "UNKNOWN_RECORD_KEY")


async def test_a_message_that_relies_on_a_revision_that_never_was(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "claims a revision that never was")
    [delivery] = services.mailboxes[bob.client.address]
    delivery.envelope = claiming_revision(delivery.envelope, 9)
    assert await bob.inbox() == []
    check_told(bob.reasons(), "RECORD_BEHIND")
    clock.advance(5 * MINUTE)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == []
    clock.advance(1)
    assert await bob.inbox() == []
    check_told(bob.reasons("set_aside"), "RECORD_BEHIND")
