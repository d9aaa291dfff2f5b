"""Whose mailbox it is, who sends, and to whom; against delivery, by a client that is not ours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.extension import DeviceKey
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost_services.runtime.callers import VerifiedCallers
from support.envelopes import new_message_id
from support.plain_world import PlainWorld
from support.refusals import refused, served

if TYPE_CHECKING:
    from support.delivery import Stack

CREATOR = "envelope.key_extension.extension.creator"
SESSION_CREATE_TIME = "envelope.key_extension.extension.session_create_time"


@pytest.fixture(params=["Send", "SendStream"])
async def plain_world(delivery_stack: Stack, request: pytest.FixtureRequest) -> PlainWorld:
    """People who hand their envelopes in one way or the other."""
    return await PlainWorld(delivery_stack, by_stream=request.param == "SendStream").start()


async def test_the_mailbox_of_another_user_is_read(plain_world: PlainWorld) -> None:
    await plain_world.alice.send("bob", "for Bob alone")
    assert await plain_world.mallory.waiting() == []


async def test_the_mailbox_of_another_user_is_acknowledged(plain_world: PlainWorld) -> None:
    await plain_world.alice.send("bob", "for Bob alone")
    (waiting,) = await plain_world.bob.waiting()
    await plain_world.mallory.waiting(None, waiting.delivery_id)
    assert await plain_world.bob.texts() == ["for Bob alone"]


async def test_the_stream_of_another_user_is_displaced(plain_world: PlainWorld) -> None:
    bob = plain_world.bob
    stream: Any = bob.delivery.Receive(metadata=bob.metadata())
    await stream.write(pb.ReceiveRequest(start=pb.Start()))
    assert (await stream.read()).HasField("queue_empty")
    await plain_world.mallory.waiting()
    await plain_world.alice.send("bob", "for Bob alone")
    assert len((await served(stream.read())).batch.deliveries) == 1


async def test_how_much_waits_for_another_user(plain_world: PlainWorld) -> None:
    mallory = plain_world.mallory
    await plain_world.alice.send("bob", "for Bob alone")
    listed = await served(mallory.delivery.ListMailboxes(pb.ListMailboxesRequest(), metadata=mallory.metadata()))
    assert [(one.device_id, one.messages) for one in listed.mailboxes] == [(mallory.pair.address.device_id, 0)]


async def test_an_envelope_in_the_name_of_somebody_else(plain_world: PlainWorld) -> None:
    alice, mallory = plain_world.alice, plain_world.mallory
    in_her_name = DeviceKeyPair(
        alice.pair.address, mallory.pair.suite, mallory.pair.private_key, mallory.pair.public_key_der
    )
    disguised = replace(mallory, pair=in_her_name)
    envelope = await disguised.envelope("bob")
    await refused(mallory.deliver(envelope), "SENDER_IS_NOT_CALLER")
    assert await plain_world.bob.waiting() == []


async def test_whether_an_envelope_of_somebody_else_was_stored_is_asked(plain_world: PlainWorld) -> None:
    envelope = await plain_world.alice.envelope("bob")
    await plain_world.alice.deliver(envelope)
    await refused(plain_world.mallory.deliver(envelope), "SENDER_IS_NOT_CALLER")


async def test_an_extension_by_another_key_than_the_callers(plain_world: PlainWorld) -> None:
    """The holder of a replaced key, and of nothing else, has signed what the device now sends."""
    replaced = plain_world.alice.pair
    alice = await plain_world.device(plain_world.stack.realm.renew(replaced))
    await plain_world.tell("alice")
    envelope = await alice.envelope("bob", signer=replaced, creator=DeviceKey.of(alice.pair))
    await refused(alice.deliver(envelope), "SENDER_IS_NOT_CALLER")


async def test_a_replaced_key_sends_before_the_event_arrives(
    plain_world: PlainWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stream is looked at again too once a newer record is seen (tests/integration/delivery/test_key_events.py): here
    # the envelope must be refused.
    monkeypatch.setattr(VerifiedCallers, "drop_others", lambda *_: None)
    alice = plain_world.alice
    await alice.send("bob", "before")
    plain_world.stack.realm.renew(alice.pair)
    envelope = await alice.envelope("bob", "after", creator=DeviceKey.of(plain_world.bob.pair))
    await refused(alice.deliver(envelope), "TOKEN_REFUSED")
    assert await plain_world.bob.texts() == ["before"]


async def test_a_device_of_the_recipient_is_left_out(plain_world: PlainWorld) -> None:
    plain_world.stack.realm.approve(plain_world.bob.pair)
    keys = plain_world.stack.realm.key_record("bob").keys[:1]
    await refused(plain_world.mallory.send("bob", keys=keys), "SEALED_KEYS_MISMATCH")
    assert await plain_world.bob.texts() == []


async def test_a_mailbox_that_nobody_has(plain_world: PlainWorld) -> None:
    realm = plain_world.stack.realm
    nobody = realm.new_pair(realm.new_address("bob"))
    (key,) = realm.key_record("bob").keys
    ghost = replace(key, request=replace(key.request, address=nobody.address, public_key_der=nobody.public_key_der))
    await refused(plain_world.mallory.send("bob", keys=[ghost]), "SEALED_KEYS_MISMATCH")
    assert await plain_world.world.keys_of(nobody) == []


async def test_sealed_keys_for_others_than_the_extension_names(plain_world: PlainWorld) -> None:
    replaced = plain_world.bob.pair
    await plain_world.device(plain_world.stack.realm.renew(replaced))
    envelope = await plain_world.mallory.envelope("bob")
    extra = envelope.key_extension.sealed_keys.add()
    extra.CopyFrom(envelope.key_extension.sealed_keys[0])
    extra.fingerprint = replaced.fingerprint
    await refused(plain_world.mallory.deliver(envelope), "SEALED_KEYS_MISMATCH")


async def test_a_key_that_was_replaced_is_sealed_to(plain_world: PlainWorld) -> None:
    envelope = await plain_world.alice.envelope("bob")
    await plain_world.alice.send("bob", "before")
    renewed = await plain_world.device(plain_world.stack.realm.renew(plain_world.bob.pair))
    await plain_world.tell("bob")
    answer = await plain_world.alice.deliver(envelope)
    assert len(await renewed.waiting()) == 1
    assert answer.stale_keys.HasField("recipient")


async def test_a_revision_that_does_not_exist_yet(plain_world: PlainWorld) -> None:
    mallory = plain_world.mallory
    await refused(mallory.send("bob", recipient_revision=2**62), "REVISION_UNKNOWN")
    await refused(mallory.send("bob", sender_revision=7), "REVISION_UNKNOWN")
    assert await plain_world.bob.texts() == []


async def test_another_envelope_under_a_used_message_id(plain_world: PlainWorld) -> None:
    message_id = new_message_id()
    await plain_world.mallory.send("bob", "one", message_id=message_id)
    await refused(plain_world.mallory.send("bob", "two", message_id=message_id), "MESSAGE_ID_USED")
    assert await plain_world.bob.texts() == ["one"]


async def test_the_message_id_of_somebody_else_is_used_up(plain_world: PlainWorld) -> None:
    message_id = new_message_id()
    await plain_world.mallory.send("bob", "first", message_id=message_id)
    assert not (await served(plain_world.alice.send("bob", "second", message_id=message_id))).stored.duplicate
    assert await plain_world.bob.texts() == ["first", "second"]


@pytest.mark.parametrize(
    ("field", "value"), [("recipient_username", "carol"), ("key_id", b"\x01" * 32), ("recipient_revision", 2)]
)
async def test_a_header_that_says_something_else_than_the_extension(
    plain_world: PlainWorld, field: str, value: object
) -> None:
    plain_world.stack.realm.enroll("carol")
    envelope = await plain_world.mallory.envelope("bob", header_alone={field: value})
    await refused(plain_world.mallory.deliver(envelope), "HEADER_MISMATCH", field=f"envelope.header.{field}")
    assert await plain_world.bob.waiting() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipient_username", "carol"),
        ("key_id", b"\x01" * 32),
        ("recipient_revision", 2),
        ("sender_revision", 2),
        ("realm", "example.com"),
    ],
)
async def test_another_header_before_an_extension_that_is_known(
    plain_world: PlainWorld, field: str, value: object
) -> None:
    """What was read before, byte for byte, is not read again: the header is."""
    plain_world.stack.realm.enroll("carol")
    envelope = await plain_world.mallory.envelope("bob")
    await served(plain_world.mallory.deliver(envelope))
    header = envelope_pb2.Header.FromString(envelope.header)
    header.message_id = new_message_id()
    setattr(header, field, value)
    envelope.header = header.SerializeToString()
    expected = "INVALID_FIELD" if field == "realm" else "HEADER_MISMATCH"
    await refused(plain_world.mallory.deliver(envelope), expected, field=f"envelope.header.{field}")
    assert len(await plain_world.bob.waiting()) == 1


async def test_the_header_of_another_device_before_an_extension_that_is_known(plain_world: PlainWorld) -> None:
    envelope = await plain_world.mallory.envelope("bob")
    await served(plain_world.mallory.deliver(envelope))
    header = envelope_pb2.Header.FromString(envelope.header)
    header.message_id = new_message_id()
    header.sender.username, header.sender.device_id = "alice", plain_world.alice.pair.address.device_id
    envelope.header = header.SerializeToString()
    await refused(plain_world.mallory.deliver(envelope), "HEADER_MISMATCH", field="envelope.header.sender")
    assert len(await plain_world.bob.waiting()) == 1


async def test_a_message_from_the_future(plain_world: PlainWorld) -> None:
    """Every recipient would have to keep it until he can open it."""
    ahead = plain_world.stack.clock() + 5 * 60_000 + 1
    sent = plain_world.mallory.send("bob", send_time=ahead)
    await refused(sent, "INVALID_FIELD", field="envelope.header.send_time")


async def test_a_weak_session_by_a_strong_key(plain_world: PlainWorld) -> None:
    envelope = await plain_world.mallory.envelope("bob")
    statement = envelope_pb2.Extension.FromString(envelope.key_extension.extension)
    statement.suite = key_info_pb2.SUITE_RSA1024_AES128
    envelope.key_extension.extension = statement.SerializeToString()
    envelope.key_extension.signature = bytes(128)
    sent = plain_world.mallory.deliver(envelope)
    await refused(sent, "INVALID_FIELD", field="envelope.key_extension.extension.suite")
    assert await plain_world.bob.waiting() == []


async def test_a_session_of_a_replaced_key(plain_world: PlainWorld) -> None:
    """Whoever holds the replaced key, too, offers a session key of his choice for others to answer under."""
    replaced = plain_world.mallory.pair
    mallory = await plain_world.device(plain_world.stack.realm.renew(replaced))
    await plain_world.tell("mallory")
    await refused(mallory.send("bob", creator=DeviceKey.of(replaced)), "SESSION_STALE", field=CREATOR)
    assert await plain_world.bob.waiting() == []


async def test_a_session_that_nobody_created(plain_world: PlainWorld) -> None:
    """Neither a key that does not exist, nor one of the recipient's name that is not his."""
    own, bob = plain_world.mallory.pair, plain_world.bob.pair
    creators = (
        DeviceKey(own.address, bytes(32)),
        DeviceKey(bob.address, own.fingerprint),
        DeviceKey(plain_world.stack.realm.new_address("bob"), bob.fingerprint),
    )
    for creator in creators:
        await refused(plain_world.mallory.send("bob", creator=creator), "SESSION_STALE", field=CREATOR)
    assert await plain_world.bob.waiting() == []


async def test_a_session_without_end(plain_world: PlainWorld) -> None:
    """The session key that one device gave away serves for good, if nobody insists on another one."""
    oldest = plain_world.stack.clock() - 7 * DAY - CLOCK_SKEW
    for create_time in (1, oldest):
        sent = plain_world.mallory.send("bob", create_time=create_time)
        await refused(sent, "SESSION_STALE", field=SESSION_CREATE_TIME)
    assert await plain_world.bob.waiting() == []


@pytest.fixture
async def small(delivery_stack: Stack) -> PlainWorld:
    """Mailboxes of six envelopes."""
    return await PlainWorld(delivery_stack).start(mailbox_messages=6)


async def test_a_mailbox_filled_by_one_sender(small: PlainWorld) -> None:
    tablet = await small.device(small.stack.realm.approve(small.mallory.pair))
    await small.tell("mallory")
    for sender in (small.mallory, tablet, small.mallory):
        await sender.send("bob")
    for sender in (tablet, small.mallory, tablet):
        await refused(sender.send("bob"), "SENDER_SHARE_FULL")
    await served(small.alice.send("bob", "there is room"))
    assert (await small.bob.texts())[-1] == "there is room"
