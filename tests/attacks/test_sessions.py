"""Which session key is used: what a peer, a recipient or the holder of an old key could slip in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import MINUTE
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.errors import SuiteRefusedError
from keypost.protocol.extension import DeviceKey
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.negotiation import step_5_encrypt_session_key
from keypost.protocol.suites import WEAK
from support.attacks import check_told, stopped_by
from support.hostile import Peer, flip, resealed, tampering
from support.talk import text

if TYPE_CHECKING:
    from keypost.delivery.v1 import envelope_pb2 as pb
    from keypost.protocol.key_info import Key
    from support.clock import ManualClock
    from support.simulation import Services


@pytest.fixture
def mallory(services: Services) -> Peer:
    return Peer.enroll(services, "mallory")


def own_key(services: Services, username: str) -> Key:
    [key] = services.realm.key_record(username).good_keys(services.realm.clock())
    return key


async def test_a_recipient_who_reseals_to_a_third_person(bob: Any, services: Services) -> None:
    alice = Peer.enroll(services, "alice")
    Peer.enroll(services, "mallory")
    offer = resealed(alice.offer("mallory"), bob.client._parts.identity.current, own_key(services, "bob"))
    await alice.put(bob.client.address, offer, text("for Mallory alone"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "SIGNATURE_INVALID")


async def test_a_recipient_who_passes_the_signed_statement_on(bob: Any, services: Services) -> None:
    alice = Peer.enroll(services, "alice")
    Peer.enroll(services, "carol")
    offer = alice.offer("carol")
    sealed_keys = step_5_encrypt_session_key(offer.session.key, [own_key(services, "bob")])
    await alice.put(
        bob.client.address, replace(offer, sealed_keys=sealed_keys), text("for Carol"), recipient_username="bob"
    )
    assert await bob.inbox() == []
    check_told(bob.reasons(), "HEADER_MISMATCH")


async def test_a_session_whose_first_message_did_not_open(alice: Any, bob: Any, services: Services) -> None:
    def ciphertext(envelope: pb.Envelope) -> None:
        envelope.ciphertext = flip(envelope.ciphertext)

    sent = await alice.client.send("bob", "altered on the way")
    services.deliver = tampering(ciphertext)
    assert await bob.inbox() == []
    answer = await bob.client.send("alice", "did you write?")
    assert answer.new_session
    assert answer.key_id != sent.key_id


async def test_a_session_of_the_holder_of_a_replaced_key(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    thief = Peer(services, bob.client._parts.identity.current)
    await bob.client.renew()
    clock.advance(1)
    offer = thief.offer("alice", create_time=clock() + 5 * MINUTE)
    await thief.put(alice.client.address, offer, text("the newest session of all"))
    assert [message.text for message in await alice.inbox()] == ["the newest session of all"]
    sent = await alice.client.send("bob", "for Bob alone")
    assert sent.key_id != offer.session.key_id
    clock.advance(1)  # Alice's own session is one millisecond younger than the one of the future
    assert [message.text for message in await bob.inbox()] == ["for Bob alone"]


async def test_a_session_of_the_future(bob: Any, mallory: Peer, clock: ManualClock) -> None:
    offer = mallory.offer("bob", create_time=clock() + 5 * MINUTE + 1)
    await mallory.put(bob.client.address, offer, text("from the future"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "CLOCK_AHEAD")
    assert (await bob.client.send("mallory", "hello")).key_id != offer.session.key_id


@pytest.mark.parametrize("side", ["own", "others"])
async def test_a_session_that_leaves_a_device_out_or_slips_one_in(
    bob: Any, services: Services, mallory: Peer, side: str
) -> None:
    first = own_key(services, "bob")
    other = services.realm.approve(bob.client._parts.identity.current)
    await bob.client.keys("bob")
    tablet = services.realm.key_record("bob").find(other.fingerprint)
    assert tablet is not None
    stranger = replace(first, request=mallory.talk.record("mallory").keys[0].request)
    recipients = (first,) if side == "own" else (first, tablet, _ghost(services, stranger))
    offer = mallory.offer("bob", recipients=tuple(sorted(recipients, key=lambda key: key.address.device_id)))
    await mallory.put(bob.client.address, offer, text("answer me under this"))
    assert [message.text for message in await bob.inbox()] == ["answer me under this"]
    assert (await bob.client.send("mallory", "for all devices to know")).key_id != offer.session.key_id


def _ghost(services: Services, like: Key) -> Key:
    """Return a key of a device that is on nobody's record."""
    pair = services.realm.new_pair(services.realm.new_address("bob"))
    signed = services.realm.signed_request(pair, key_info_pb2.KEY_REQUEST_KIND_ENROLL)
    return replace(like, request=read_key_request(signed))


async def test_a_session_from_before_a_change_of_keys(bob: Any, services: Services, mallory: Peer) -> None:
    await mallory.put(bob.client.address, mallory.offer("bob"), text("one"))
    [message] = await bob.inbox()
    tablet = services.realm.approve(mallory.pair)
    services.realm.revoke(tablet)
    await bob.client.keys("mallory")
    assert (await bob.client.send("mallory", "two")).key_id != message.key_id


async def test_a_session_that_this_device_never_made(bob: Any, services: Services, mallory: Peer) -> None:
    mine = DeviceKey.of(own_key(services, "bob"))
    for creator in (mine, replace(mine, fingerprint=bytes(32))):
        await mallory.put(bob.client.address, mallory.offer("bob", creator=creator), text("your own session"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "SECOND_STATEMENT")


async def test_a_second_statement_for_a_session(bob: Any, mallory: Peer) -> None:
    offer = mallory.offer("bob")
    await mallory.put(bob.client.address, offer, text("one"))
    extension = vars(offer.signed.extension)
    second = mallory.sign(offer.session, **{**extension, "sign_time": extension["sign_time"] + 1})
    await mallory.put(bob.client.address, replace(offer, signed=second), text("two"))
    assert [message.text for message in await bob.inbox()] == ["one"]
    check_told(bob.reasons(), "SECOND_STATEMENT")


async def test_another_key_under_a_key_id(bob: Any, mallory: Peer) -> None:
    one, two = mallory.offer("bob", bytes(32)), mallory.offer("bob", bytes([1]) * 32)
    named = vars(replace(two.signed.extension, key_id=one.session.key_id))
    await mallory.put(bob.client.address, replace(two, signed=mallory.sign(two.session, **named)), text("one"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "KEY_ID_MISMATCH")


@pytest.mark.parametrize("size", [16, 31, 33])
async def test_a_session_key_of_another_length(bob: Any, mallory: Peer, size: int) -> None:
    await mallory.put(bob.client.address, mallory.offer("bob", bytes(size)), text("under a short key"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "SESSION_KEY_REFUSED")


async def test_a_session_of_the_weak_suite_by_a_strong_key(bob: Any, mallory: Peer) -> None:
    await mallory.put(bob.client.address, mallory.offer("bob", suite=WEAK), text("let us use what is broken"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "SUITE_REFUSED")


async def test_a_key_of_another_device_of_the_sender(bob: Any, services: Services, mallory: Peer) -> None:
    """The tablet signs as the phone: who reads would believe that the phone wrote."""
    tablet = services.realm.approve(mallory.pair)
    as_phone = Peer(services, replace(tablet, address=mallory.pair.address))
    await as_phone.put(bob.client.address, as_phone.offer("bob"), text("from the phone"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "NOT_FOR_THIS_DEVICE")


async def test_a_message_in_the_weak_suite(bob: Any, services: Services, mallory: Peer) -> None:
    weak = Peer(services, services.realm.new_pair(services.realm.new_address("mallory"), WEAK))
    approve = key_info_pb2.KEY_REQUEST_KIND_APPROVE
    services.realm.record(services.realm.signed_request(weak.pair, approve, mallory.pair))
    await weak.put(bob.client.address, weak.offer("bob"), text("let us use what is broken"))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "KEY_UNKNOWN")


async def test_a_weak_device_beside_a_strong_one(alice: Any, bob: Any, services: Services) -> None:
    """Bob's own minimum is his own affair: Alice's holds for what she sends, to each of his devices."""
    weak = services.realm.new_pair(services.realm.new_address("bob"), WEAK)
    parent = bob.client._parts.identity.current
    services.realm.record(services.realm.signed_request(weak, key_info_pb2.KEY_REQUEST_KIND_APPROVE, parent))
    with stopped_by(SuiteRefusedError, str(weak.address)):
        await alice.client.send("bob", "for strong devices alone")
    assert services.mailboxes[weak.address] == []


async def test_a_device_that_only_the_sender_was_shown(bob: Any, services: Services, mallory: Peer) -> None:
    """The directory shows an honest sender a device of Bob's that Bob's own record never had: Bob is told."""
    first = own_key(services, "bob")
    recipients = tuple(sorted((first, _ghost(services, first)), key=lambda key: key.address.device_id))
    await mallory.put(bob.client.address, mallory.offer("bob", recipients=recipients), text("for two devices"))
    assert [message.text for message in await bob.inbox()] == ["for two devices"]
    check_told(bob.reasons(), "DEVICES_DIFFER")


async def test_a_device_that_the_sender_was_not_shown(
    bob: Any, services: Services, mallory: Peer, clock: ManualClock
) -> None:
    first = own_key(services, "bob")
    services.realm.approve(bob.client._parts.identity.current)
    clock.advance(1)
    await bob.client.keys("bob")
    await mallory.put(bob.client.address, mallory.offer("bob", recipients=(first,)), text("for one device"))
    assert [message.text for message in await bob.inbox()] == ["for one device"]
    check_told(bob.reasons("warning"), "DEVICES_DIFFER")
