"""Send over real TLS, against a real Valkey and a directory that a test may let lie."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from keypost.clock import DAY, HOUR, MINUTE, SECOND
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.key_info import read_key_info, sign_user_keys
from support.delivery import SimulatedDevice, Stack, text_of, until
from support.delivery_world import World
from support.envelopes import new_message_id
from support.realm import seeded_signer

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.keys.v1.key_info_pb2 import KeyInfo
    from keypost.protocol.key_info import KeyRecord

SEND = "/keypost.delivery.v1.DeliveryService/Send"


async def refusal(device: SimulatedDevice, envelope: envelope_pb2.Envelope) -> RefusedError:
    with pytest.raises(RefusedError) as raised:
        await device.send(envelope)
    return raised.value


def code_and_reason(error: RefusedError) -> tuple[str, str]:
    return error.metadata["code"], error.reason


async def test_a_message_is_stored_with_delivery_s_time(world: World) -> None:
    response = await world.alice.send_text("bob", "hello")
    assert response.stored.accept_time == world.stack.clock()
    assert not response.stored.duplicate
    async with world.bob.receive() as stream:
        (delivery,) = await stream.batch()
    assert delivery.accept_time == world.stack.clock()
    assert text_of(delivery, world.bob_pair) == "hello"
    assert world.counted("keypost_delivery_sends_total", outcome="accepted") == 1
    assert world.counted("keypost_delivery_mailbox_appends_total") == 1


async def test_how_deep_mailboxes_are_is_seen_whenever_something_is_put_in(world: World) -> None:
    for _ in range(3):
        await world.alice.send_text("bob")
    async with world.bob.receive() as stream:
        await stream.acknowledge(*(delivery.delivery_id for delivery in await stream.batch()))
        await stream.finish()
    await world.alice.send_text("bob")
    assert world.counted("keypost_delivery_mailbox_depth_count") == 4
    assert world.counted("keypost_delivery_mailbox_depth_sum") == 1 + 2 + 3 + 1
    assert world.counted("keypost_delivery_mailbox_depth_bucket", le="1.0") == 2


async def test_each_device_gets_its_own_sealed_key_alone(world: World) -> None:
    tablet = world.stack.realm.approve(world.bob_pair)
    await world.alice.send_text("bob")
    for pair in (world.bob_pair, tablet):
        async with (await world.device(pair)).receive() as stream:
            (delivery,) = await stream.batch()
        envelope = envelope_pb2.Envelope.FromString(delivery.envelope)
        assert [key.fingerprint for key in envelope.key_extension.sealed_keys] == [pair.fingerprint]
        assert text_of(delivery, pair) == "hello"


async def test_to_oneself_goes_to_the_other_devices(world: World) -> None:
    tablet = world.stack.realm.approve(world.alice_pair)
    await world.alice.send_text("alice", "a copy")
    assert await world.mailbox(tablet) == ["a copy"]
    assert await world.mailbox(world.alice_pair) == []


async def test_another_device_of_the_same_user_is_not_the_sender(world: World) -> None:
    envelope = world.alice.envelope("bob")
    await world.alice.send(envelope)  # nor does he learn that it is stored
    tablet = await world.device(world.stack.realm.approve(world.alice_pair))
    assert (await refusal(tablet, envelope)).reason == "SENDER_IS_NOT_CALLER"


async def test_the_same_bytes_again_are_answered_as_stored(world: World) -> None:
    envelope = world.alice.envelope("bob")
    first = await world.alice.send(envelope)
    world.stack.clock.advance(5 * SECOND)
    again = await world.alice.send(envelope)
    assert again.stored.duplicate
    assert again.stored.accept_time == first.stored.accept_time
    assert await world.mailbox(world.bob_pair) == ["hello"]
    assert world.counted("keypost_delivery_sends_total", outcome="duplicate") == 1


async def test_what_is_stored_is_answered_as_stored_though_the_keys_have_changed(world: World) -> None:
    envelope = world.alice.envelope("bob")
    await world.alice.send(envelope)
    world.stack.realm.renew(world.bob_pair)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    assert (await world.alice.send(envelope)).stored.duplicate
    fresh = world.alice.envelope("bob", recipient_revision=1)
    assert (await world.alice.send(fresh)).HasField("stale_keys")


async def test_what_is_about_to_be_forgotten_is_not_put_in_again_though_the_keys_have_changed(world: World) -> None:
    envelope = world.alice.envelope("bob")
    await world.alice.send(envelope)
    world.stack.clock.advance(30 * DAY - 2 * MINUTE)
    world.stack.realm.renew(world.bob_pair)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    assert (await world.alice.send(envelope)).stored.duplicate
    world.stack.clock.advance(MINUTE + 1)
    assert (await world.alice.send(envelope)).HasField("stale_keys")


async def test_what_is_stored_is_answered_as_stored_though_the_directory_is_away(world: World) -> None:
    envelope = world.alice.envelope("bob")
    await world.alice.send(envelope)
    world.stack.directory.away = True
    world.stack.directory.tell("bob", revision=2)
    await world.event_arrived()
    assert (await world.alice.send(envelope)).stored.duplicate
    assert code_and_reason(await refusal(world.alice, world.alice.envelope("bob"))) == (
        "UNAVAILABLE",
        "DIRECTORY_UNAVAILABLE",
    )


async def test_a_message_sealed_again_after_it_was_stored_is_refused_even_if_it_is_stale(world: World) -> None:
    message_id = new_message_id()
    await world.alice.send(world.alice.envelope("bob", message_id=message_id))
    world.stack.realm.renew(world.bob_pair)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    for revision in (1, 2):
        envelope = world.alice.envelope("bob", message_id=message_id, recipient_revision=revision)
        assert (await refusal(world.alice, envelope)).reason == "MESSAGE_ID_USED"


async def test_many_at_once_are_stored_once(world: World) -> None:
    envelope = world.alice.envelope("bob")
    answers = await asyncio.gather(*(world.alice.send(envelope) for _ in range(30)))
    assert [answer.stored.duplicate for answer in answers].count(False) == 1
    assert {answer.stored.accept_time for answer in answers} == {world.stack.clock()}
    assert await world.mailbox(world.bob_pair) == ["hello"]


async def test_one_id_from_two_devices_is_two_messages(world: World) -> None:
    tablet = await world.device(world.stack.realm.approve(world.alice_pair))
    message_id = new_message_id()
    for device in (world.alice, tablet):
        assert not (await device.send(device.envelope("bob", message_id=message_id))).stored.duplicate
    assert len(await world.mailbox(world.bob_pair)) == 2


async def test_a_send_that_broke_off_between_two_mailboxes_is_completed(world: World) -> None:
    realm = world.stack.realm
    tablet, phone = realm.approve(world.bob_pair), realm.approve(world.bob_pair)
    envelope = world.alice.envelope("bob", "to all")
    await world.alice.send(envelope)
    await world.lose_mailbox(tablet)
    await world.lose_mailbox(phone)
    realm.revoke(phone)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    assert not (await world.alice.send(envelope)).stored.duplicate
    assert await world.mailbox(world.bob_pair) == ["to all"]
    assert await world.mailbox(tablet) == ["to all"]
    assert await world.keys_of(phone) == []


async def test_a_message_sealed_again_reaches_the_mailboxes_that_it_had_not_got_into(world: World) -> None:
    tablet = world.stack.realm.approve(world.bob_pair)
    message_id = new_message_id()
    await world.alice.send(world.alice.envelope("bob", "sealed once", message_id=message_id))
    await world.lose_mailbox(tablet)
    again = world.alice.envelope("bob", "sealed again", message_id=message_id)
    assert not (await world.alice.send(again)).stored.duplicate
    assert await world.mailbox(world.bob_pair) == ["sealed once"]
    assert await world.mailbox(tablet) == ["sealed again"]
    assert (await world.alice.send(again)).stored.duplicate
    third = world.alice.envelope("bob", "sealed a third time", message_id=message_id)
    assert (await refusal(world.alice, third)).reason == "MESSAGE_ID_USED"


async def test_other_bytes_complete_nothing_that_they_would_be_refused_for(world: World) -> None:
    realm, message_id = world.stack.realm, new_message_id()
    tablet = realm.approve(world.bob_pair)
    await world.alice.send(world.alice.envelope("bob", "to all", message_id=message_id))
    other = world.alice.envelope("bob", "to one who was withdrawn", message_id=message_id)
    await world.lose_mailbox(tablet)
    realm.revoke(tablet)
    await world.event()
    assert (await world.alice.send(other)).HasField("stale_keys")
    assert await world.keys_of(tablet) == []
    assert await world.mailbox(world.bob_pair) == ["to all"]


async def test_stale_keys_of_the_recipient_are_a_result_with_the_fresh_record(world: World) -> None:
    await world.alice.send_text("bob")
    renewed = world.stack.realm.renew(world.bob_pair)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    stale = (await world.alice.send(world.alice.envelope("bob", recipient_revision=1))).stale_keys
    assert not stale.HasField("sender")
    assert read(world, stale.recipient, "bob").revision == 2
    async with (await world.device(renewed)).receive() as stream:
        assert len(await stream.backlog()) == 1
    assert world.counted("keypost_delivery_sends_total", outcome="stale") == 1


async def test_stale_keys_of_both_sides_are_both_returned(world: World) -> None:
    world.stack.realm.approve(world.alice_pair)
    world.stack.realm.approve(world.bob_pair)
    envelope = world.alice.envelope("bob", sender_revision=1, recipient_revision=1)
    stale = (await world.alice.send(envelope)).stale_keys
    assert read(world, stale.sender, "alice").revision == 2
    assert read(world, stale.recipient, "bob").revision == 2


async def test_stale_keys_of_the_sender_alone(world: World) -> None:
    world.stack.realm.approve(world.alice_pair)
    stale = (await world.alice.send(world.alice.envelope("bob", sender_revision=1))).stale_keys
    assert read(world, stale.sender, "alice").revision == 2
    assert not stale.HasField("recipient")


async def test_an_envelope_signed_before_the_own_renewal_is_stale_not_refused(world: World) -> None:
    envelope = world.alice.envelope("bob")
    renewed = await world.device(world.stack.realm.renew(world.alice_pair))
    assert (await renewed.send(envelope)).stale_keys.HasField("sender")


async def test_a_higher_revision_is_asked_through_and_accepted(world: World) -> None:
    await world.alice.send_text("bob")
    world.stack.realm.renew(world.bob_pair)  # no event arrives
    assert (await world.alice.send_text("bob")).HasField("stored")
    assert world.stack.directory.min_revisions[-1] == 2


async def test_a_revision_that_the_ca_does_not_confirm_is_unavailable(world: World) -> None:
    for side in ("sender_revision", "recipient_revision"):
        world.stack.clock.advance(2 * SECOND)
        error = await refusal(world.alice, world.alice.envelope("bob", changes={side: 7}))
        assert code_and_reason(error) == ("UNAVAILABLE", "REVISION_UNKNOWN")
        assert error.retriable
    assert await world.mailbox(world.bob_pair) == []


async def test_many_who_claim_a_higher_revision_ask_once(world: World) -> None:
    await world.alice.send_text("bob")
    asked = world.stack.directory.asked["bob"]
    world.stack.directory.hold.clear()
    envelopes = [world.alice.envelope("bob", recipient_revision=9) for _ in range(10)]
    sends = [asyncio.create_task(refusal(world.alice, envelope)) for envelope in envelopes]
    await until(lambda: world.counted("keypost_calls_under_way", method=SEND) == len(sends))
    world.stack.directory.hold.set()
    assert {error.reason for error in await asyncio.gather(*sends)} == {"REVISION_UNKNOWN"}
    assert world.stack.directory.asked["bob"] == asked + 1
    # And not again at once, whatever is claimed; a little later it is.
    await refusal(world.alice, world.alice.envelope("bob", recipient_revision=1000))
    assert world.stack.directory.asked["bob"] == asked + 1
    world.stack.clock.advance(SECOND)
    await refusal(world.alice, world.alice.envelope("bob", recipient_revision=1000))
    assert world.stack.directory.asked["bob"] == asked + 2


async def test_sealed_to_all_good_devices_and_no_others(world: World) -> None:
    tablet = world.stack.realm.approve(world.bob_pair)
    old = world.stack.realm.key_record("bob").get(world.bob_pair.fingerprint)
    world.stack.realm.renew(world.bob_pair)
    good = world.alice.recipient_keys("bob")
    only_tablet = [key for key in good if key.fingerprint == tablet.fingerprint]
    with_old = sorted([*only_tablet, old], key=lambda key: key.address)
    for keys in (only_tablet, with_old):
        error = await refusal(world.alice, world.alice.envelope("bob", keys=keys))
        assert code_and_reason(error) == ("INVALID_ARGUMENT", "SEALED_KEYS_MISMATCH")
    assert (await world.alice.send(world.alice.envelope("bob", keys=good))).HasField("stored")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda keys: keys.pop(),
        lambda keys: keys.append(keys[0]),
        lambda keys: setattr(keys[0], "fingerprint", bytes(32)),
        lambda keys: setattr(keys[0], "sealed_key", keys[0].sealed_key[:128]),
    ],
)
async def test_the_sealed_keys_are_those_of_the_extension(world: World, spoil: Callable[[object], object]) -> None:
    world.stack.realm.approve(world.bob_pair)
    envelope = world.alice.envelope("bob")
    spoil(envelope.key_extension.sealed_keys)
    assert (await refusal(world.alice, envelope)).reason == "SEALED_KEYS_MISMATCH"
    assert await world.mailbox(world.bob_pair) == []


async def test_a_key_that_has_just_expired_may_be_among_them_or_not(world: World) -> None:
    old = world.stack.realm.approve(world.bob_pair, expire_time=world.stack.clock() + 10 * MINUTE)
    both = world.alice.recipient_keys("bob")
    one = [key for key in both if key.fingerprint != old.fingerprint]
    for advance, with_old, without in ((0, True, False), (6 * MINUTE, True, True), (12 * MINUTE, False, True)):
        world.stack.clock.advance(advance)
        for keys, accepted in ((both, with_old), (one, without)):
            envelope = world.alice.envelope("bob", keys=keys)
            if accepted:
                assert (await world.alice.send(envelope)).HasField("stored")
            else:
                assert (await refusal(world.alice, envelope)).reason == "SEALED_KEYS_MISMATCH"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("header_recipient_username", "carol"),
        ("header_key_id", b"\x01" * 32),
        ("header_sender_revision", 2),
        ("header_recipient_revision", 2),
    ],
)
async def test_header_and_extension_agree(world: World, name: str, value: object) -> None:
    error = await refusal(world.alice, world.alice.envelope("bob", changes={name: value}))
    assert code_and_reason(error) == ("INVALID_ARGUMENT", "HEADER_MISMATCH")
    assert error.metadata["field"] == f"envelope.header.{name.removeprefix('header_')}"


@pytest.mark.parametrize("field", ["header_send_time", "sign_time", "session_create_time"])
async def test_what_nobody_could_open_yet_is_refused(world: World, field: str) -> None:
    def ahead(milliseconds: int) -> envelope_pb2.Envelope:
        envelope, time = world.alice.envelope("bob"), world.stack.clock() + milliseconds
        if field.startswith("header_"):
            return world.alice.envelope("bob", changes={field: time})
        statement = envelope_pb2.Extension.FromString(envelope.key_extension.extension)
        setattr(statement, field, time)
        envelope.key_extension.extension = statement.SerializeToString()
        return envelope

    assert (await world.alice.send(ahead(5 * MINUTE))).HasField("stored")
    error = await refusal(world.alice, ahead(5 * MINUTE + 1))
    assert code_and_reason(error) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error.metadata["field"].rpartition(".")[2] == field.removeprefix("header_")


async def test_a_session_has_the_suite_of_the_key_that_signs(world: World) -> None:
    envelope = world.alice.envelope("bob")
    statement = envelope_pb2.Extension.FromString(envelope.key_extension.extension)
    statement.suite = key_info_pb2.SUITE_RSA1024_AES128
    envelope.key_extension.extension = statement.SerializeToString()
    envelope.key_extension.signature = bytes(128)
    error = await refusal(world.alice, envelope)
    assert code_and_reason(error) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error.metadata["field"] == "envelope.key_extension.extension.suite"


async def test_a_user_that_does_not_exist(world: World) -> None:
    world.stack.realm.enroll("nobody")
    envelope = world.alice.envelope("nobody")
    del world.stack.realm.users["nobody"]
    assert code_and_reason(await refusal(world.alice, envelope)) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_an_envelope_has_256_kib_at_most(world: World) -> None:
    envelope = world.alice.envelope("bob")
    envelope.ciphertext += bytes(256 * 1024 - envelope.ByteSize() - 2)
    envelope.ciphertext += bytes(256 * 1024 - envelope.ByteSize())
    assert envelope.ByteSize() == 256 * 1024
    assert (await world.alice.send(envelope)).HasField("stored")
    envelope.ciphertext += b"x"
    assert code_and_reason(await refusal(world.alice, envelope)) == ("INVALID_ARGUMENT", "ENVELOPE_TOO_LARGE")


async def test_a_full_mailbox_is_told_and_costs_nobody_a_message(stack: Stack) -> None:
    world = World(stack)
    await world.start(mailbox_messages=3, mailbox_sender_percent=100)
    tablet = stack.realm.approve(world.bob_pair)
    for _ in range(3):
        await world.alice.send_text("bob")
    async with (await world.device(tablet)).receive() as stream:
        await stream.acknowledge(*[one.delivery_id for one in await stream.backlog()])
        await stream.finish()
    envelope = world.alice.envelope("bob", "the last")
    error = await refusal(world.alice, envelope)
    assert code_and_reason(error) == ("RESOURCE_EXHAUSTED", "MAILBOX_FULL")
    assert error.metadata["device_ids"] == world.bob_pair.address.device_id
    assert await world.mailbox(tablet) == []
    async with world.bob.receive() as stream:
        await stream.acknowledge((await stream.backlog())[0].delivery_id)
        await stream.finish()
    assert (await world.alice.send(envelope)).HasField("stored")
    assert (await world.mailbox(world.bob_pair))[-1] == "the last"
    assert await world.mailbox(tablet) == ["the last"]


async def test_with_the_mailboxes_away_nothing_is_promised_and_health_says_so(world: World) -> None:
    await world.alice.send_text("bob", "before")
    envelope = world.alice.envelope("bob", "meanwhile")
    world.stack.valkey.kill()
    error = await refusal(world.alice, envelope)
    assert code_and_reason(error) == ("UNAVAILABLE", "MAILBOXES_UNAVAILABLE")
    assert error.retriable
    assert "mailboxes" in world.service.runtime.health.degraded
    world.stack.valkey.start()
    assert (await world.alice.send(envelope)).HasField("stored")
    assert await world.mailbox(world.bob_pair) == ["before", "meanwhile"]
    async with asyncio.timeout(15):
        async for state in world.service.runtime.health.changes("mailboxes"):
            if state == 1:
                break


def of_another_user(world: World, _: KeyInfo) -> KeyInfo:
    return world.stack.realm.key_info("alice")


def forged(world: World, _: KeyInfo) -> KeyInfo:
    statement = world.stack.realm.statement("bob")
    return key_info_pb2.KeyInfo(record=sign_user_keys(statement, seeded_signer(99)))


def altered(_: World, key_info: KeyInfo) -> KeyInfo:
    key_info.record.user_keys += b"\x00"
    return key_info


def expired(world: World, _: KeyInfo) -> KeyInfo:
    now = world.stack.clock()
    return world.stack.realm.key_info("bob", this_update=now - HOUR, next_update=now)


@pytest.mark.parametrize("lie", [of_another_user, forged, altered, expired])
async def test_a_directory_that_lies_is_not_believed(world: World, lie: Callable[[World, KeyInfo], KeyInfo]) -> None:
    world.stack.directory.answer = lambda name, info: lie(world, info) if name == "bob" else info
    error = await refusal(world.alice, world.alice.envelope("bob"))
    assert code_and_reason(error) == ("UNAVAILABLE", "DIRECTORY_UNAVAILABLE")
    world.stack.directory.answer = lambda _, info: info
    world.stack.clock.advance(10 * SECOND)
    assert (await world.alice.send_text("bob")).HasField("stored")


async def test_a_directory_that_goes_back_a_revision_is_not_believed(world: World) -> None:
    old = world.stack.realm.key_info("bob", next_update=world.stack.clock() + HOUR)
    renewed = world.stack.realm.renew(world.bob_pair)
    await world.alice.send_text("bob")
    world.stack.directory.answer = lambda name, info: old if name == "bob" else info
    world.stack.directory.tell("bob", revision=2)
    await world.event_arrived()
    assert (await world.alice.send_text("bob")).HasField("stored")  # what is held is still the newest there is
    world.stack.clock.advance(HOUR)
    error = await refusal(world.alice, world.alice.envelope("bob", recipient_revision=1))
    assert error.reason == "DIRECTORY_UNAVAILABLE"
    world.stack.directory.answer = lambda _, info: info
    assert (await world.alice.send_text("bob")).HasField("stored")
    assert len(await world.mailbox(renewed)) == 3


async def test_with_the_directory_away_records_live_to_their_next_update(world: World) -> None:
    await world.alice.send_text("bob")
    world.stack.directory.away = True
    world.stack.clock.advance(HOUR - 1)
    assert (await world.alice.send_text("bob")).HasField("stored")
    world.stack.clock.advance(1)
    assert (await refusal(world.alice, world.alice.envelope("bob"))).reason == "DIRECTORY_UNAVAILABLE"


async def test_messages_are_forgotten_after_the_mailbox_age(world: World) -> None:
    await world.alice.send_text("bob", "old")
    world.stack.clock.advance(30 * DAY)
    await world.alice.send_text("bob", "younger")
    world.stack.clock.advance(1)
    assert world.counted("keypost_delivery_expired_total") == 0
    assert await world.mailbox(world.bob_pair) == ["younger"]
    assert world.counted("keypost_delivery_expired_total") == 1


async def test_who_sends_to_a_mailbox_drops_what_is_too_old(world: World) -> None:
    for _ in range(2):
        await world.alice.send_text("bob")
    world.stack.clock.advance(30 * DAY + 1)
    assert (await world.alice.send_text("bob")).HasField("stored")
    assert world.counted("keypost_delivery_expired_total") == 2


async def test_metrics_name_no_user(world: World) -> None:
    await world.alice.send_text("bob")
    text = generate_latest(world.service.runtime.metrics).decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert "keypost_delivery_sends" in names
    assert "alice" not in text
    assert "bob" not in text


def read(world: World, key_info: KeyInfo, username: str) -> KeyRecord:
    return read_key_info(key_info, trust=world.stack.realm.trust(), username=username, now=world.stack.clock())
