"""What cannot be opened is set aside as it came, with its reason, and can be tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import HOUR, MINUTE
from support.hostile import change_extension, change_header, flip, tampering
from support.simulation import failing

if TYPE_CHECKING:
    from keypost.delivery.v1 import envelope_pb2 as pb
    from support.clock import ManualClock
    from support.hostile import Change
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SETTLE = HOUR + 5 * MINUTE


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


async def test_rubbish_is_set_aside_raw(bob: Any, services: Services) -> None:
    await services.put(bob.client.address, b"\xff\xff\xff")
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["MALFORMED_STATEMENT"]
    [row] = await bob.client._parts.context.store.run(lambda store: store.set_aside.page())
    assert row.envelope == b"\xff\xff\xff"
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
