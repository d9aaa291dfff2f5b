"""What is on its way: kept across failures and crashes, sent in the background, shown, given up for good reasons."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client.pipeline import MOST_IN_BATCH
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError, UnreachableError
from support.people import FOR_EVER, IMPATIENT
from support.simulation import failing
from support.surfaces import asyncio_only

if TYPE_CHECKING:
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
AWAY = failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")
FULL = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")


async def texts(person: Any) -> list[str]:
    return [message.text for message in await person.inbox()]


async def until_stored(services: Services, count: int) -> None:
    """Wait until so many envelopes are in mailboxes."""
    async with asyncio.timeout(20), services.changed:
        await services.changed.wait_for(lambda: sum(map(len, services.mailboxes.values())) >= count)


async def test_what_a_crash_left_goes_out_when_the_client_is_opened(
    impatient: Any, bob: Any, services: Services, open_client: Any
) -> None:
    services.faults["Send"] = [AWAY] * FOR_EVER
    for body in ("first", "second"):
        with pytest.raises(RefusedError):
            await impatient.client.send("bob", body)
    await impatient.client.close()
    services.faults["Send"] = []
    await open_client("alice", bundle=None)
    await until_stored(services, 2)
    assert await texts(bob) == ["first", "second"]


async def test_what_waits_goes_out_once_delivery_is_back(impatient: Any, bob: Any, services: Services) -> None:
    services.faults["SendStream"] = [AWAY] * FOR_EVER
    with pytest.raises((RefusedError, UnreachableError)) as caught:
        await impatient.client.send("bob", "without another call")
    assert impatient.reasons("waiting") == [caught.value.reason]
    services.faults["SendStream"] = []
    await until_stored(services, 1)
    assert await texts(bob) == ["without another call"]


async def test_a_lane_that_has_given_up_goes_on_when_the_stream_is_there_again(
    impatient: Any, bob: Any, services: Services, open_client: Any
) -> None:
    carol = await open_client("carol")
    await carol.client.enroll("carol")

    async def unexpected(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, "a proxy says so")

    # For ever: one that ends while it is written to may have lost its reason, and is opened anew.
    services.faults["SendStream"] = [unexpected] * FOR_EVER
    with pytest.raises(RefusedError, match="unexpected"):
        await impatient.client.send("bob", "to Bob")
    services.faults["SendStream"] = []
    await impatient.client.send("carol", "to Carol")
    await until_stored(services, 2)
    assert await texts(bob) == ["to Bob"]


async def test_an_outage_costs_nothing_but_time(alice: Any, bob: Any, services: Services) -> None:
    services.faults["SendStream"] = [AWAY] * 4
    services.faults["Send"] = [AWAY] * 7
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "CA_UNAVAILABLE")] * 12
    services.lost_answers["Send"] = 3
    sent = await alice.client.send("bob", "in the end")
    assert (sent.counter, alice.events) == (1, [])
    assert await texts(bob) == ["in the end"]


async def test_flush_waits_until_all_is_stored(impatient: Any, bob: Any, services: Services) -> None:
    alice = impatient
    services.faults["Send"] = [AWAY] * FOR_EVER
    with pytest.raises(RefusedError):
        await alice.client.send("bob", "first")
    [waiting] = await alice.client.outbox()
    assert (waiting.username, waiting.counter, waiting.copy_to) == ("bob", 1, None)
    assert str(waiting.message_id) == alice.events[-1].facts["message_id"]
    assert [left.message_id for left in await alice.client.flush()] == [waiting.message_id]
    services.faults["Send"] = []
    assert await alice.client.flush() == ()
    assert await alice.client.outbox() == ()
    assert await texts(bob) == ["first"]


async def test_one_that_is_refused_for_good_blocks_no_other(
    impatient: Any, bob: Any, services: Services, open_client: Any
) -> None:
    alice = impatient
    services.faults["Send"] = [AWAY] * FOR_EVER
    for body in ("too much", "second"):
        with pytest.raises(RefusedError):
            await alice.client.send("bob", body)
    await alice.client.close()

    async def full(_context: Any) -> None:
        # Not before the stream of the client that was closed has ended.
        services.faults["Send"] = [FULL]

    services.faults["SendStream"] = [full]
    alice = await open_client("alice", bundle=None)
    assert await alice.client.flush() == ()
    assert alice.reasons("error") == ["MAILBOX_FULL"]
    assert await texts(bob) == ["second"]


@asyncio_only  # threads that send at once have no order among themselves
async def test_messages_sent_at_once_go_out_in_batches_under_one_session(
    alice: Any, bob: Any, services: Services
) -> None:
    count = 3 * MOST_IN_BATCH
    sent = await asyncio.gather(*(alice.client.send("bob", str(number)) for number in range(count)))
    assert [one.counter for one in sent] == list(range(1, count + 1))
    assert len({one.key_id for one in sent}) == 1
    assert sum(sum(one.rsa_operations.values()) for one in sent) == 2
    assert len(services.batches) < count / 8
    assert await texts(bob) == [str(number) for number in range(count)]


@asyncio_only  # as above
async def test_a_batch_for_stale_keys_is_sealed_again_and_sent_again_at_once(
    alice: Any, bob: Any, services: Services
) -> None:
    await alice.client.send("bob", "before")
    await bob.client.renew()
    services.batches.clear()
    begun = len(services.requests["Send"])
    sent = await asyncio.gather(*(alice.client.send("bob", str(number)) for number in range(40)))
    assert [one.counter for one in sent] == list(range(2, 42))
    # What was held was not looked at: one look at the stale one, and one at each of the forty.
    assert len(services.requests["Send"]) - begun == 41
    assert sum(list(batch.resume) == ["bob"] for batch in services.batches) == 1
    assert await texts(bob) == ["before", *(str(number) for number in range(40))]


async def test_a_service_without_streams_is_sent_to_one_by_one(alice: Any, bob: Any, services: Services) -> None:
    async def unknown(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")

    services.faults["SendStream"] = [unknown] * FOR_EVER
    await bob.client.renew()
    await alice.client.send("bob", "one")
    asked = len(services.requests["SendStream"])
    await alice.client.send("bob", "two")
    assert len(services.requests["SendStream"]) == asked
    assert services.batches == []
    assert await texts(bob) == ["one", "two"]


async def test_a_call_that_is_cancelled_leaves_its_message_to_go_out(alice: Any, bob: Any, services: Services) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_context: Any) -> None:
        begun.set()
        await go_on.wait()

    services.faults["Send"] = [slow]
    call = asyncio.create_task(alice.client._parts.sending.send("bob", _text("cancelled")))
    async with asyncio.timeout(20):
        await begun.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        go_on.set()
        await alice.client.send("bob", "next")
    assert await texts(bob) == ["cancelled", "next"]


def _text(body: str) -> envelope_pb2.Content:
    return envelope_pb2.Content(message=envelope_pb2.Message(media_type="text/plain", body=body.encode()))


async def test_a_silent_delivery_is_no_answer(open_client: Any, bob: Any, services: Services) -> None:
    quick = type(IMPATIENT)(attempt_timeout=0.2, patience=0.5, backoff=IMPATIENT.backoff)
    alice = await open_client("alice", retries=quick)
    await alice.client.enroll("alice")
    never = asyncio.Event()

    async def silent(_context: Any) -> None:
        await never.wait()

    services.faults["Send"] = [silent] * FOR_EVER
    with pytest.raises(UnreachableError):
        await alice.client.send("bob", "hello?")
    services.faults["Send"] = []
    assert await alice.client.flush() == ()
    assert await texts(bob) == ["hello?"]
