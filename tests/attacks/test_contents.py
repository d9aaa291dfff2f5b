"""What a peer could put into a message that only its recipient can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol.encoding import int_bytes
from keypost.protocol.envelope import associated_data
from keypost.protocol.extension import DeviceKey
from keypost.protocol.suites import STRONG
from support.attacks import check_said, check_told
from support.hostile import Peer, altered
from support.talk import NONCE, Offer, message_id, text

if TYPE_CHECKING:
    from support.simulation import Services

COPY = pb.SentCopy(recipient_username="carol", message_id=message_id(9), message=pb.Message(body=b"I owe Mallory 100"))
SENT = pb.SentCopy(recipient_username="carol", message_id=message_id(9), message=text("hello, Carol").message)
BODY = text("x").SerializeToString()


@pytest.fixture
def mallory(services: Services) -> Peer:
    return Peer.enroll(services, "mallory")


async def test_a_copy_of_what_bob_never_sent(bob: Any, mallory: Peer) -> None:
    await mallory.put(bob.client.address, mallory.offer("bob"), pb.Content(sent_copy=COPY))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "CONTENT_REFUSED")
    check_said(bob.events[0].sentence, "somebody else claims")


@dataclass
class OtherDevice:
    """Another device of Bob's, in other hands."""

    peer: Peer
    offer: Offer

    async def copy(self, bob: Any, **changes: Any) -> None:
        copy = pb.SentCopy()
        copy.CopyFrom(SENT)
        for name, value in changes.items():
            setattr(copy, name, value)
        await self.peer.put(bob.client.address, self.offer, pb.Content(sent_copy=copy))


@pytest.fixture
def tablet(bob: Any, services: Services) -> OtherDevice:
    pair = bob.client._parts.identity.current
    peer = Peer(services, services.realm.approve(pair))
    own = services.realm.key_record("bob").find(pair.fingerprint)
    assert own is not None
    return OtherDevice(peer, peer.offer("bob", recipients=(own,)))


async def test_a_copy_that_comes_again_under_another_id(bob: Any, tablet: OtherDevice) -> None:
    await tablet.copy(bob)
    await tablet.copy(bob)
    [message] = await bob.inbox()
    assert (message.text, message.copy_to) == ("hello, Carol", "carol")
    assert message.message_id.bytes == SENT.message_id
    assert message.sender == tablet.peer.pair.address
    await tablet.copy(bob)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"recipient_username": "bob"},
        {"recipient_username": ""},
        {"recipient_username": "NOBODY"},
        {"message_id": bytes(16)},
    ],
)
async def test_a_copy_of_what_cannot_have_been_sent(bob: Any, tablet: OtherDevice, changes: dict[str, Any]) -> None:
    await tablet.copy(bob, **changes)
    assert await bob.inbox() == []
    check_told(bob.reasons("set_aside"), "CONTENT_REFUSED")


async def test_a_copy_of_nothing_and_of_a_part_of_a_file(bob: Any, tablet: OtherDevice) -> None:
    """This version makes no copies of files: one that comes is kept raw for a version that does, and not lost."""
    for copy in (
        pb.SentCopy(recipient_username="carol", message_id=message_id(7)),
        pb.SentCopy(recipient_username="carol", message_id=message_id(8), file_part=pb.FilePart(data=b"x", count=1)),
    ):
        await tablet.peer.put(bob.client.address, tablet.offer, pb.Content(sent_copy=copy))
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["CONTENT_REFUSED", "CONTENT_REFUSED"]


async def test_a_content_of_no_kind(bob: Any, mallory: Peer) -> None:
    await mallory.put(bob.client.address, mallory.offer("bob"), pb.Content())
    assert await bob.inbox() == []
    check_told(bob.reasons(), "CONTENT_REFUSED")


@pytest.mark.parametrize(
    "plaintext",
    [
        int_bytes(len(BODY)) + BODY,  # none at all
        (int_bytes(len(BODY)) + BODY + text("y").SerializeToString()).ljust(256, b"\0"),  # another content in it
        STRONG.pad(BODY) + bytes(16),  # more zeros than belong there
        STRONG.pad(BODY)[:-1] + b"\1",  # something hidden behind it
    ],
    ids=["none", "a content", "zeros", "a bit"],
)
async def test_a_padding_that_lies(bob: Any, mallory: Peer, services: Services, plaintext: bytes) -> None:
    offer = mallory.offer("bob")

    def seal(envelope: pb.Envelope) -> None:
        bound = associated_data(envelope.header, envelope.key_extension.extension)
        key = offer.session.message_key(DeviceKey.of(mallory.pair))
        envelope.ciphertext = AESGCM(key).encrypt(NONCE, plaintext, bound)

    await services.put(bob.client.address, altered(mallory.write(offer, text("x")), seal))
    assert await bob.inbox() == []
    check_told(bob.reasons(), "CONTENT_REFUSED")


async def test_one_counter_for_two_messages(bob: Any, mallory: Peer) -> None:
    offer = mallory.offer("bob")
    for body in ("one", "two"):
        await mallory.put(bob.client.address, offer, text(body), counter=1)
    assert [message.text for message in await bob.inbox()] == ["one", "two"]
    check_told(bob.reasons("warning"), "CLONE_SUSPECTED")
