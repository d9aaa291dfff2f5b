"""What a server on the way, or a peer, could do to a message, and what becomes of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client.look_ups import AT_ONCE, LookUps
from keypost.client.opening import Fate
from keypost.client.receiving import Arrival
from keypost.client.storing import to_session, to_signed_extension, to_stored_session
from keypost.clock import DAY, HOUR, MINUTE
from keypost.delivery.v1 import delivery_service_pb2 as delivery_pb
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2
from keypost.keystore.values import OutgoingMessage, StoredStatement
from keypost.protocol.extension import Session
from keypost.protocol.key_info import Key
from keypost.protocol.key_requests import read_key_request
from support.simulation import failing

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.clock import ManualClock
    from support.simulation import Services

    Change = Callable[[pb.Envelope], object]

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SETTLE = HOUR + 5 * MINUTE


def change_header(**fields: Any) -> Change:
    def change(envelope: pb.Envelope) -> None:
        header = pb.Header.FromString(envelope.header)
        for name, value in fields.items():
            setattr(header, name, value)
        envelope.header = header.SerializeToString(deterministic=True)

    return change


def change_extension(**fields: Any) -> Change:
    def change(envelope: pb.Envelope) -> None:
        extension = pb.Extension.FromString(envelope.key_extension.extension)
        for name, value in fields.items():
            setattr(extension, name, value)
        envelope.key_extension.extension = extension.SerializeToString(deterministic=True)

    return change


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def tampering(change: Change) -> Callable[[delivery_pb.Delivery], delivery_pb.Delivery]:
    def deliver(delivery: delivery_pb.Delivery) -> delivery_pb.Delivery:
        envelope = pb.Envelope.FromString(delivery.envelope)
        change(envelope)
        changed = delivery_pb.Delivery()
        changed.CopyFrom(delivery)
        changed.envelope = envelope.SerializeToString()
        return changed

    return deliver


def ciphertext(envelope: pb.Envelope) -> None:
    envelope.ciphertext = flip(envelope.ciphertext)


def signature(envelope: pb.Envelope) -> None:
    envelope.key_extension.signature = flip(envelope.key_extension.signature)


def sealed_key(envelope: pb.Envelope) -> None:
    key = envelope.key_extension.sealed_keys[0]
    key.sealed_key = flip(key.sealed_key)


def no_sealed_key(envelope: pb.Envelope) -> None:
    del envelope.key_extension.sealed_keys[:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ciphertext, "DECRYPTION_FAILED"),
        (signature, "SIGNATURE_INVALID"),
        (sealed_key, "SESSION_KEY_REFUSED"),
        (no_sealed_key, "NOT_FOR_THIS_DEVICE"),
        (change_header(counter=7), "DECRYPTION_FAILED"),
        (change_header(send_time=1), "DECRYPTION_FAILED"),
        (change_header(message_id=bytes(16)), "MALFORMED_STATEMENT"),
        (change_header(realm="example.net"), "HEADER_MISMATCH"),
        (change_header(recipient_username="carol"), "HEADER_MISMATCH"),
        (change_header(key_id=bytes(32)), "HEADER_MISMATCH"),
        (change_header(sender_revision=9), "HEADER_MISMATCH"),
        (change_extension(sign_time=2_000_000_000_000_000), "CLOCK_AHEAD"),
        (change_extension(session_create_time=1), "MESSAGE_TOO_OLD"),
        (change_extension(recipient_username="carol"), "MALFORMED_STATEMENT"),
        (change_extension(suite=1), "SUITE_REFUSED"),
        (change_extension(suite=99), "SUITE_UNKNOWN"),
        (lambda envelope: envelope.key_extension.ClearField("extension"), "SUITE_UNKNOWN"),
        (lambda envelope: envelope.ClearField("nonce"), "MALFORMED_STATEMENT"),
    ],
)
async def test_what_was_altered_is_not_opened_and_blocks_nothing(
    alice: Any, bob: Any, services: Services, change: Change, reason: str
) -> None:
    await alice.client.send("bob", "altered on the way")
    services.deliver = tampering(change)
    assert await bob.inbox() == []
    kind = "waiting" if reason == "CLOCK_AHEAD" else "set_aside"
    assert bob.reasons(kind) == [reason]
    services.deliver = lambda delivery: delivery
    sent = await alice.client.send("bob", "untouched")
    [message] = await bob.inbox()
    assert message.text == "untouched"
    assert message.key_id == sent.key_id
    assert services.mailboxes[bob.client.address] == []


async def test_a_session_of_an_altered_message_is_not_adopted(alice: Any, bob: Any, services: Services) -> None:
    sent = await alice.client.send("bob", "altered on the way")
    services.deliver = tampering(ciphertext)
    assert await bob.inbox() == []
    answer = await bob.client.send("alice", "did you write?")
    assert answer.new_session
    assert answer.key_id != sent.key_id


async def test_the_untouched_message_still_opens_after_an_altered_copy(
    alice: Any, bob: Any, services: Services
) -> None:
    await alice.client.send("bob", "the real one")
    [delivery] = services.mailboxes[bob.client.address]
    services.deliver = tampering(ciphertext)
    await bob.inbox()
    services.deliver = lambda delivery: delivery
    await services.put(bob.client.address, delivery.envelope)
    assert [message.text for message in await bob.inbox()] == ["the real one"]


async def test_a_replay_is_dropped(alice: Any, bob: Any, services: Services, open_client: Any) -> None:
    await alice.client.send("bob", "once")
    [delivery] = services.mailboxes[bob.client.address]
    await services.put(bob.client.address, delivery.envelope)
    assert len(await bob.inbox()) == 1
    await services.put(bob.client.address, delivery.envelope)
    assert await bob.inbox() == []
    await bob.client.close()
    again = await open_client("bob", bundle=None)
    await services.put(again.client.address, delivery.envelope)
    assert await again.inbox() == []
    assert services.mailboxes[again.client.address] == []
    assert bob.events == again.events == []


async def test_a_message_for_somebody_else_is_not_opened(
    alice: Any, bob: Any, services: Services, open_client: Any
) -> None:
    carol = await open_client("carol")
    await carol.client.enroll("carol")
    await alice.client.send("bob", "for Bob")
    [delivery] = services.mailboxes[bob.client.address]
    await services.put(carol.client.address, delivery.envelope)
    assert await carol.inbox() == []
    assert carol.reasons("set_aside") == ["NOT_FOR_THIS_DEVICE"]


async def test_an_own_message_that_comes_back_is_not_opened(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "for Bob")
    [delivery] = services.mailboxes[bob.client.address]
    await services.put(alice.client.address, delivery.envelope)
    assert await alice.inbox() == []
    assert alice.reasons("set_aside") == ["OWN_MESSAGE"]


async def test_rubbish_is_set_aside_raw(bob: Any, services: Services) -> None:
    await services.put(bob.client.address, b"\xff\xff\xff")
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["MALFORMED_STATEMENT"]
    [row] = await bob.client._parts.context.store.run(lambda store: store.set_aside.page())
    assert row.envelope == b"\xff\xff\xff"
    assert services.mailboxes[bob.client.address] == []


async def test_no_bytes_whatever_block_the_mailbox(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "mangled")
    [delivery] = services.mailboxes[bob.client.address]
    dice = random.Random(1)
    for _ in range(150):
        mangled = bytearray(delivery.envelope)
        for _ in range(dice.randint(1, 3)):
            mangled[dice.randrange(len(mangled))] = dice.randrange(256)
        await services.put(bob.client.address, bytes(mangled[: dice.choice([len(mangled), dice.randrange(1, 900)])]))
    messages = await bob.inbox()
    assert [message.text for message in messages] == ["mangled"]
    assert services.mailboxes[bob.client.address] == []


async def test_an_unforeseen_failure_sets_the_message_aside_and_shows_nothing_of_it(
    alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("something from the message")

    await alice.client.send("bob", "one")
    with monkeypatch.context() as patch:
        patch.setattr("keypost.protocol.negotiation.step_14_decrypt_message", fail)
        assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["INTERNAL"]
    assert "something" not in repr(bob.events)
    assert await bob.client.retry_set_aside() == 1
    assert [message.text for message in await bob.inbox()] == ["one"]
    assert await bob.client.retry_set_aside() == 0


async def test_what_stays_wrong_stays_set_aside(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "altered")
    services.deliver = tampering(ciphertext)
    await bob.inbox()
    assert await bob.client.retry_set_aside() == 0
    rows = await bob.client._parts.context.store.run(lambda store: store.set_aside.page())
    assert [row.reason for row in rows] == ["DECRYPTION_FAILED"]


async def test_messages_that_are_held_back_are_counted(alice: Any, bob: Any, services: Services) -> None:
    for number in range(4):
        await alice.client.send("bob", str(number))
    del services.mailboxes[bob.client.address][1:3]
    messages = await bob.inbox()
    assert [(message.text, message.missed) for message in messages] == [("0", 0), ("3", 2)]


async def test_one_counter_for_two_messages_is_a_suspected_clone(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "one")
    store, sending = alice.client._parts.context.store, alice.client._parts.sending
    second = OutgoingMessage(
        message_id=bytes.fromhex("018cc251f400" + "7000" + "8000" + "000000000001"),
        recipient="bob",
        counter=1,
        create_time=1,
        content=pb.Content(message=pb.Message(media_type="text/plain", body=b"two")).SerializeToString(),
    )
    await store.run(lambda opened: opened.outbox.add(second))
    await sending._hand_over(second, new_session=False)
    assert [message.text for message in await bob.inbox()] == ["one", "two"]
    assert bob.reasons("warning") == ["CLONE_SUSPECTED"]


async def test_a_device_that_only_the_sender_sees_is_told(alice: Any, bob: Any, services: Services) -> None:
    ghost = services.realm.new_pair(services.realm.new_address("bob"))
    signed = services.realm.signed_request(ghost, key_info_pb2.KEY_REQUEST_KIND_ENROLL)
    record = await alice.client.keys("bob")
    key = Key(read_key_request(signed), key_info_pb2.KEY_STATE_GOOD, services.realm.clock(), services.realm.clock())
    alice.client._parts.records._remember(replace(record, keys=(*record.keys, key)))
    good = services.good("bob") | {ghost.address.device_id: ghost.fingerprint}
    services.good = lambda username: good  # type: ignore[method-assign]  # noqa: ARG005
    await alice.client.send("bob", "for two devices")
    assert [message.text for message in await bob.inbox()] == ["for two devices"]
    assert bob.reasons("warning") == ["DEVICES_DIFFER"]


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
    [evidence] = await bob.client._parts.context.store.run(lambda store: store.records.evidence("bob"))
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
    assert bob.events == []


async def test_a_device_that_the_sender_leaves_out_is_told(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    services.realm.approve(bob.client._parts.identity.current)
    record = await alice.client.keys("bob")
    alice.client._parts.records._remember(replace(record, keys=record.keys[:1]))
    good = dict(list(services.good("bob").items())[:1])
    services.good = lambda username: good  # type: ignore[method-assign]  # noqa: ARG005
    await alice.client.send("bob", "for one device")
    clock.advance(1)
    await bob.client.renew()
    assert [message.text for message in await bob.inbox()] == ["for one device"]
    assert bob.reasons("warning") == ["DEVICES_DIFFER"]


async def test_a_time_of_delivery_in_the_future_makes_no_message_wait_for_ever(
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
    assert manual.reasons() == ["UNKNOWN_RECORD_KEY"]
    clock.advance(80 * DAY)
    assert await manual.inbox() == []
    assert manual.reasons("set_aside") == ["UNKNOWN_RECORD_KEY"]


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
    outcomes = await receiving.take([Arrival(envelope, services.realm.clock(), 0) for envelope in deliveries])
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
    outcomes = await bob.client._parts.receiving.take(arrivals)
    assert [outcome.fate for outcome in outcomes] == [Fate.WAITS, Fate.KEPT]
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


async def test_a_message_that_a_later_record_still_contradicts_is_set_aside(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "claims a revision that never was")
    [delivery] = services.mailboxes[bob.client.address]

    def lie(envelope: pb.Envelope) -> None:
        change_header(sender_revision=9)(envelope)
        change_extension(sender_revision=9)(envelope)

    services.deliver = tampering(lie)
    assert await bob.inbox() == []
    assert bob.reasons("waiting") == ["RECORD_BEHIND"]
    clock.advance(5 * MINUTE)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == []
    clock.advance(1)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["RECORD_BEHIND"]
    assert delivery.envelope


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
    [outcome] = await bob.client._parts.receiving.take(arrivals)
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


async def test_nothing_by_a_revoked_key_is_opened(alice: Any, bob: Any, services: Services, clock: ManualClock) -> None:
    await alice.client.send("bob", "sent before")
    clock.advance(1)
    services.realm.revoke(alice.client._parts.identity.current)
    clock.advance(1)
    [delivery] = services.mailboxes[bob.client.address]
    delivery.accept_time = clock()
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["KEY_REVOKED"]


async def test_nothing_by_a_replaced_key_is_opened_once_the_queue_was_empty_after_it_settled(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "kept back by delivery")
    services.deliver = lambda _delivery: None
    await alice.client.renew()
    clock.advance(SETTLE)
    await bob.client._parts.records.get("alice", refresh=True)
    assert await bob.inbox() == []
    services.deliver = lambda delivery: delivery
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["KEY_SUPERSEDED"]


def claiming_revision(envelope: bytes, revision: int) -> bytes:
    """Return an envelope that relies on a revision of its sender that never was."""
    claiming = pb.Envelope.FromString(envelope)
    change_header(sender_revision=revision)(claiming)
    change_extension(sender_revision=revision)(claiming)
    return claiming.SerializeToString()


async def test_rubbish_that_waits_keeps_no_ended_key_listened_to(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "kept back by delivery")
    [withheld] = services.mailboxes[bob.client.address]
    services.mailboxes[bob.client.address] = []
    await alice.client.renew()
    clock.advance(SETTLE)
    await bob.client.keys("alice")
    await services.put(bob.client.address, claiming_revision(withheld.envelope, 10**6))
    assert await bob.inbox() == []
    assert bob.reasons("waiting") == ["RECORD_BEHIND"]
    await services.put(bob.client.address, withheld.envelope, withheld.accept_time)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["KEY_SUPERSEDED"]


async def test_rubbish_keeps_no_own_ended_key_beyond_the_age_limit(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "sealed to the old key")
    [sealed] = services.mailboxes[bob.client.address]
    services.mailboxes[bob.client.address] = []
    await bob.client.renew()
    clock.advance(SETTLE)
    await services.put(bob.client.address, claiming_revision(sealed.envelope, 10**6))
    await bob.inbox()
    assert len(bob.client._parts.identity.ring.replaced) == 1
    for revision in range(10**6 + 1, 10**6 + 4):
        clock.advance(6 * MINUTE)
        await services.put(bob.client.address, claiming_revision(sealed.envelope, revision))
        await bob.inbox()
    # What came before the key ended holds it up to the age limit, though it was set aside; what came later does not.
    [old] = bob.client._parts.identity.ring.replaced
    clock.advance((await bob.client._parts.trust.current()).constants.age_limit - 18 * MINUTE + 1)
    await bob.inbox()
    await bob.inbox()
    assert bob.client._parts.identity.ring.find(old.fingerprint) is None


@pytest.mark.parametrize("waits_first", [False, True])
async def test_what_was_set_aside_before_its_keys_ended_is_opened_by_another_try(
    alice: Any, bob: Any, services: Services, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, *, waits_first: bool
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    await alice.client.send("bob", "came in time")
    if waits_first:
        await bob.client.keys("bob")
        services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 20
        assert await bob.inbox() == []
        assert bob.reasons("waiting") == ["CA_UNAVAILABLE"]
        services.faults["GetKeyInfo"] = []
    with monkeypatch.context() as patch:
        patch.setattr("keypost.protocol.negotiation.step_14_decrypt_message", fail)
        assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["INTERNAL"]
    await alice.client.renew()
    await bob.client.renew()
    clock.advance(SETTLE)
    await bob.client.keys("alice")
    assert await bob.inbox() == []
    assert len(bob.client._parts.identity.ring.replaced) == 1
    assert await bob.client.retry_set_aside() == 1
    assert [message.text for message in await bob.inbox()] == ["came in time"]
    assert await bob.inbox() == []
    assert bob.client._parts.identity.ring.replaced == ()


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


async def test_a_second_statement_for_a_session_is_refused(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "one")
    await bob.inbox()
    store = alice.client._parts.context.store
    own = await store.run(lambda opened: opened.sessions.own_extension(("alice", "bob"), _key_id(opened)))
    extension = pb.Extension.FromString(own.extension)
    extension.sign_time += 1
    pair = alice.client._parts.identity.current

    def forge(opened: Any) -> None:
        session = opened.sessions.newest(("alice", "bob"))[0]
        statement = extension.SerializeToString(deterministic=True)
        from keypost.protocol.encoding import sha256  # noqa: PLC0415

        again = pair.suite.sign_extension(pair.private_key, statement, sha256(session.session_key))
        opened.sessions.own_extension = lambda *_: type(own)(statement, again, own.sealed_keys)

    await store.run(forge)
    await alice.client.send("bob", "two")
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["SECOND_STATEMENT"]


def _key_id(opened: Any) -> bytes:
    return opened.sessions.newest(("alice", "bob"))[0].key_id  # type: ignore[no-any-return]


async def test_a_session_that_this_device_never_made_is_not_taken_for_its_own(
    alice: Any, bob: Any, services: Services
) -> None:
    await bob.client.send("alice", "a session of Bob's")
    await alice.inbox()

    def invent(store: Any) -> None:
        [known] = store.sessions.newest(("alice", "bob"))
        session = to_session(known, "example.org")
        made = Session.create(
            "example.org", ("alice", "bob"), session.suite, session.creator, services.realm.clock(), bytes(32)
        )
        store.sessions.add(to_stored_session(made))
        real = store.sessions.newest

        def newest(conversation: Any, limit: int = 32) -> Any:
            return tuple(row for row in real(conversation, limit) if row.key_id == made.key_id)

        store.sessions.newest = newest
        statement = store.sessions.statement
        offered = to_signed_extension(*_parts_of(statement(("alice", "bob"), known.key_id, known.creator)))
        forged = replace(offered.extension, key_id=made.key_id, session_create_time=made.create_time)
        store.sessions.add_statement(
            ("alice", "bob"), made.key_id, StoredStatement(known.creator, forged.to_bytes(), offered.signature)
        )

    await alice.client._parts.context.store.run(invent)
    answer = await alice.client.send("bob", "under a key of Alice's choice")
    assert not answer.new_session
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["SECOND_STATEMENT"]


def _parts_of(stored: StoredStatement) -> tuple[bytes, bytes]:
    return stored.extension, stored.signature


async def test_a_stream_that_breaks_is_opened_again(alice: Any, bob: Any, services: Services) -> None:
    services.faults["Receive"] = [
        failing(UNAVAILABLE, "STREAM_EXPIRED"),
        failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE", retry_after_ms=1),
    ]
    services.faults["ReceiveEnds"] = [failing(UNAVAILABLE, "STREAM_EXPIRED")]
    await alice.client.send("bob", "one")
    texts: list[str] = []
    async with asyncio.timeout(20):
        async for message in bob.client.receive():
            texts.append(message.text)
            if len(texts) == 2:
                break
            await alice.client.send("bob", "two")
    assert texts == ["one", "two"]
    assert services.streams >= 2


async def test_a_displaced_receiver_is_told(bob: Any, services: Services) -> None:
    services.faults["Receive"] = [failing(grpc.StatusCode.ABORTED, "RECEIVER_DISPLACED")]
    async with asyncio.timeout(20):
        with pytest.raises(RefusedError) as caught:
            _ = [message async for message in bob.client.receive()]
    assert caught.value.reason == "RECEIVER_DISPLACED"


async def test_without_following_a_delivery_that_stays_away_is_said(bob: Any, services: Services) -> None:
    services.faults["Receive"] = [failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * 20
    with pytest.raises(RefusedError) as caught:
        await bob.inbox()
    assert caught.value.reason == "MAILBOXES_UNAVAILABLE"
    services.faults["Receive"] = [failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause="UNKNOWN_KEY")] * 20
    async with asyncio.timeout(20):
        with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
            _ = [message async for message in bob.client.receive()]


async def test_a_stream_that_ends_without_a_word_is_opened_again(alice: Any, bob: Any, services: Services) -> None:
    async def end(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "")

    services.faults["Receive"] = [end, end]
    await alice.client.send("bob", "one")
    assert [message.text for message in await bob.inbox()] == ["one"]


async def test_the_inbox_is_handed_out_though_delivery_is_away(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "one")
    iterator = bob.client.receive()
    await anext(iterator)
    await iterator.aclose()

    async def gone(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "")

    services.faults["Receive"] = [gone] * 20
    iterator = bob.client.receive(follow=False)
    assert (await anext(iterator)).text == "one"
    with pytest.raises(UnreachableError):
        await anext(iterator)
