"""SendStream over real TLS: many envelopes under way, results in order, and nothing overtakes what was not stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError
from support.envelopes import new_message_id

if TYPE_CHECKING:
    from support.delivery_world import World


def batch(*envelopes: envelope_pb2.Envelope, resume: tuple[str, ...] = ()) -> pb.SendStreamRequest:
    return pb.SendStreamRequest(envelopes=envelopes, resume=resume)


def outcomes(results: list[list[pb.SendResult]]) -> list[list[Any]]:
    """Return of each result its kind, or the reason of the refusal."""
    return [[one.refusal.reason or one.WhichOneof("outcome") for one in of_batch] for of_batch in results]


async def test_batches_are_stored_in_order_and_answered_in_order(world: World) -> None:
    texts = [f"message {number}" for number in range(12)]
    envelopes = [world.alice.envelope("bob", text) for text in texts]
    results = await world.alice.send_stream(*(batch(*envelopes[start : start + 4]) for start in (0, 4, 8)))
    assert outcomes(results) == [["stored"] * 4] * 3
    assert {one.stored.accept_time for of_batch in results for one in of_batch} == {world.stack.clock()}
    assert await world.mailbox(world.bob_pair) == texts
    assert world.counted("keypost_delivery_sends_total", outcome="accepted") == 12


async def test_the_same_envelope_again_is_answered_as_stored(world: World) -> None:
    envelope = world.alice.envelope("bob")
    first, second = await world.alice.send_stream(batch(envelope, envelope), batch(envelope))
    assert [one.stored.duplicate for one in (*first, *second)] == [False, True, True]
    assert await world.mailbox(world.bob_pair) == ["hello"]


async def test_messages_that_are_there_under_other_bytes_hold_nothing(world: World) -> None:
    ids = [new_message_id() for _ in range(3)]
    once, again = ([world.alice.envelope("bob", text, message_id=one) for one in ids] for text in ("once", "again"))
    fresh = world.alice.envelope("bob", "fresh")
    results = await world.alice.send_stream(batch(*once), batch(*again, fresh))
    assert outcomes(results) == [["stored"] * 3, ["MESSAGE_ID_USED"] * 3 + ["stored"]]
    assert await world.mailbox(world.bob_pair) == ["once"] * 3 + ["fresh"]


async def test_what_follows_a_stale_envelope_is_held_until_the_sender_takes_the_conversation_up_again(
    world: World,
) -> None:
    carol = world.stack.realm.enroll("carol")
    stale = [world.alice.envelope("bob", text, message_id=new_message_id()) for text in ("one", "two", "three")]
    bob = world.stack.realm.renew(world.bob_pair)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    fresh = [world.alice.envelope("bob", text) for text in ("one", "two")]
    results = await world.alice.send_stream(
        batch(*stale[:2], world.alice.envelope("carol", "to another")), batch(stale[2]), batch(*fresh, resume=("bob",))
    )
    assert outcomes(results) == [["stale_keys", "held", "stored"], ["held"], ["stored", "stored"]]
    assert results[0][0].stale_keys.HasField("recipient")
    assert await world.mailbox(carol) == ["to another"]
    assert await world.mailbox(bob) == ["one", "two"]


async def test_a_refusal_is_what_send_would_have_ended_with_and_holds_the_rest(world: World) -> None:
    refused = world.alice.envelope("bob", send_time=world.stack.clock() + 10 * 60_000)
    with pytest.raises(RefusedError) as of_send:
        await world.alice.send(refused)
    held = world.alice.envelope("bob")
    (results,) = await world.alice.send_stream(batch(refused, held))
    refusal = results[0].refusal
    assert refusal.reason == of_send.value.reason
    assert refusal.metadata["field"] == of_send.value.metadata["field"]
    assert outcomes([results]) == [["INVALID_FIELD", "held"]]
    assert await world.mailbox(world.bob_pair) == []
    assert outcomes(await world.alice.send_stream(batch(held))) == [["stored"]], "another stream holds nothing"


async def test_resume_of_another_conversation_frees_nothing(world: World) -> None:
    world.stack.realm.enroll("carol")
    refused = world.alice.envelope("bob", send_time=world.stack.clock() + 10 * 60_000)
    results = await world.alice.send_stream(
        batch(refused), batch(world.alice.envelope("bob"), resume=("carol",)), batch(resume=("bob",))
    )
    assert outcomes(results) == [["INVALID_FIELD"], ["held"], []]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SendStreamRequest(envelopes=[envelope_pb2.Envelope(nonce=b"x")] * 257), "envelopes"),
        (pb.SendStreamRequest(envelopes=[envelope_pb2.Envelope(ciphertext=bytes(600_000))] * 2), "envelopes"),
        (pb.SendStreamRequest(resume=["bob"] * 257), "resume"),
    ],
)
async def test_a_batch_that_is_too_large_ends_the_stream(
    world: World, request_: pb.SendStreamRequest, field: str
) -> None:
    with pytest.raises(RefusedError) as raised:
        await world.alice.send_stream(request_)
    assert raised.value.reason == "BATCH_TOO_LARGE"
    assert raised.value.metadata["field"] == field


async def test_the_largest_batch_is_taken(world: World) -> None:
    (results,) = await world.alice.send_stream(batch(*(world.alice.envelope("bob") for _ in range(256))))
    assert outcomes([results]) == [["stored"] * 256]
