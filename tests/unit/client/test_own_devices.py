"""A client compares the devices that senders seal to with those of its own user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.clock import MINUTE
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.negotiation import step_5_encrypt_session_key
from support.hostile import Peer, altered
from support.talk import text

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


async def test_a_device_that_the_own_record_never_shows_keeps_the_message_from_being_opened(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    user = services.realm.user("bob")
    before = user.revision, user.keys
    services.realm.approve(bob.client._parts.identity.current)
    await alice.client.send("bob", "for two devices")
    user.revision, user.keys = before
    clock.advance(MINUTE)
    assert await bob.inbox() == []
    assert bob.reasons("waiting") == ["RECORD_BEHIND"]
    clock.advance(5 * MINUTE + 1)
    services.serve_key_info = lambda name, info: key_info_pb2.KeyInfo() if name == "bob" else info
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == []
    services.serve_key_info = lambda _name, info: info
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["RECORD_BEHIND"]


async def test_a_device_that_was_slipped_in_is_told_though_the_own_record_has_moved_on(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    user = services.realm.user("bob")
    before = user.revision, user.keys
    ghost = services.realm.approve(bob.client._parts.identity.current)
    await alice.client.send("bob", "for two devices")
    user.revision, user.keys = before
    clock.advance(MINUTE)
    await bob.client.keys("bob")
    for _ in range(2):
        clock.advance(1)
        await bob.client.renew()
    assert [message.text for message in await bob.inbox()] == ["for two devices"]
    assert bob.reasons("warning") == ["DEVICES_DIFFER"]
    [evidence] = await bob.client.evidence("alice")
    assert evidence.reason == "DEVICES_DIFFER"
    extension = pb.Extension.FromString(pb.KeyExtension.FromString(evidence.current).extension)
    assert ghost.fingerprint in {device.fingerprint for device in extension.recipient_devices}


async def test_a_device_that_left_since_is_no_difference(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    other = services.realm.approve(bob.client._parts.identity.current)
    await alice.client.send("bob", "for two devices")
    clock.advance(1)
    services.realm.revoke(other)
    await bob.client.renew()
    clock.advance(1)
    services.realm.approve(bob.client._parts.identity.current)
    await bob.client.keys("bob")
    assert [message.text for message in await bob.inbox()] == ["for two devices"]
    assert bob.reasons("warning") == []


async def test_a_sealed_key_of_another_device_in_front(bob: Any, services: Services) -> None:
    """What is sealed for others and stands beside it changes nothing."""
    Peer.enroll(services, "stranger")
    mallory = Peer.enroll(services, "mallory")
    offer = mallory.offer("bob")
    foreign = step_5_encrypt_session_key(bytes(32), services.realm.key_record("stranger").keys)

    def mix(envelope: pb.Envelope) -> None:
        own = list(envelope.key_extension.sealed_keys)
        del envelope.key_extension.sealed_keys[:]
        envelope.key_extension.sealed_keys.extend([*foreign, *own])

    await services.put(bob.client.address, altered(mallory.write(offer, text("hello")), mix))
    assert [message.text for message in await bob.inbox()] == ["hello"]
