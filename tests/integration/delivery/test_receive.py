"""Receive over real TLS and a real Valkey."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2
from keypost_services.delivery.mailboxes import Claim, MailboxLimits, ReceiverDisplacedError
from keypost_services.delivery.store_valkey import ValkeyMailboxes
from support.delivery import SimulatedStream, Stack, text_of, until
from support.delivery_world import World

LARGE = MailboxLimits()
RECEIVE = "/keypost.delivery.v1.DeliveryService/Receive"


async def end_of(stream: SimulatedStream) -> RefusedError:
    """Return why a stream ends; fails if it ends without a reason."""
    try:
        while await stream.next() is not None:
            pass
    except RefusedError as error:
        return error
    pytest.fail("the stream ended without a reason")


async def test_an_empty_mailbox_says_so_at_once_and_only_once(world: World) -> None:
    async with world.bob.receive() as stream:
        await stream.queue_empty()
        await world.send("first", "second")
        received: list[str] = []
        while len(received) < 2:
            received += world.texts(await stream.batch())
        assert received == ["first", "second"]
        assert world.counted("keypost_delivery_wake_ups_total") >= 1


async def test_what_waits_comes_in_order_then_queue_empty_then_what_arrives(world: World) -> None:
    await world.send("1", "2", "3")
    async with world.bob.receive() as stream:
        assert world.texts(await stream.batch()) == ["1", "2", "3"]
        await stream.queue_empty()
        await world.send("4")
        assert world.texts(await stream.batch()) == ["4"]


async def test_acknowledged_is_gone_and_the_rest_comes_again(world: World) -> None:
    await world.send("1", "2", "3")
    async with world.bob.receive() as stream:
        first, _, third = await stream.backlog()
        await stream.acknowledge(first.delivery_id, third.delivery_id, "1-1")
        await stream.finish()
    async with world.bob.receive() as stream:
        assert world.texts(await stream.backlog()) == ["2"]
    assert world.counted("keypost_delivery_acknowledged_total") == 2
    assert world.counted("keypost_delivery_pushed_total") == 4


async def test_no_more_than_the_device_wants_is_under_way(world: World) -> None:
    await world.send("1", "2", "3", "4", "5")
    async with world.bob.receive(max_unacknowledged=2) as stream:
        received = await stream.batch()
        assert world.texts(received) == ["1", "2"]
        for expected in (["3"], ["4"]):
            await stream.acknowledge(received.pop(0).delivery_id)
            batch = await stream.batch()
            assert world.texts(batch) == expected
            received += batch
        await stream.acknowledge(*[one.delivery_id for one in received])
        assert world.texts(await stream.batch()) == ["5"]
        await stream.queue_empty()


async def test_queue_empty_does_not_wait_for_acknowledgements(world: World) -> None:
    await world.send("1")
    async with world.bob.receive(max_unacknowledged=1) as stream:
        assert world.texts(await stream.batch()) == ["1"]
        await stream.queue_empty()


async def test_queue_empty_comes_even_if_the_backlog_vanishes(world: World) -> None:
    await world.send("1", "2")
    async with world.bob.receive(max_unacknowledged=1) as stream:
        (first,) = await stream.batch()
        async with Redis.from_url(world.stack.valkey.url) as client:
            await client.delete(f"keypost:{{{world.bob_pair.address}}}:waiting")
        await stream.acknowledge(first.delivery_id)
        await stream.queue_empty()


async def test_batches_are_bounded_by_bytes(world: World) -> None:
    await world.fill([bytes([number]) * 250_000 for number in range(10)])
    async with world.bob.receive() as stream:
        sizes: list[int] = []
        while sum(sizes) < 10:
            batch = await stream.batch()
            assert sum(len(one.envelope) for one in batch) <= 1024 * 1024
            sizes.append(len(batch))
        assert max(sizes) == 4


async def test_5000_messages_are_drained_in_order(world: World) -> None:
    bodies = [f"message {number}".encode() for number in range(5_000)]
    async with Redis.from_url(world.stack.valkey.url) as client:
        await client.config_set("appendfsync", "no")
    await world.fill(bodies)
    received: list[bytes] = []
    async with asyncio.timeout(60), world.bob.receive() as stream:
        while (response := await stream.next()) is not None and response.WhichOneof("kind") == "batch":
            assert 1 <= len(response.batch.deliveries) <= 256
            received += [one.envelope for one in response.batch.deliveries]
            await stream.acknowledge(*[one.delivery_id for one in response.batch.deliveries])
        await stream.finish()
    assert received == bodies
    async with world.bob.receive() as stream:
        await stream.queue_empty()


async def test_offline_storage_survives_a_power_cut_of_the_store(world: World) -> None:
    await world.send("while bob is offline")
    world.stack.valkey.kill()
    world.stack.valkey.start()
    async with world.bob.receive() as stream:
        assert world.texts(await stream.backlog()) == ["while bob is offline"]


async def test_a_second_stream_displaces_the_first(world: World) -> None:
    async with world.bob.receive() as first:
        await first.queue_empty()
        async with (await world.device(world.bob_pair)).receive() as second:
            await second.queue_empty()
            error = await end_of(first)
            assert (error.metadata["code"], error.reason) == ("ABORTED", "RECEIVER_DISPLACED")
            await world.send("to the second")
            assert world.texts(await second.batch()) == ["to the second"]


async def test_a_second_stream_at_another_replica_displaces_the_first(world: World) -> None:
    other = await world.stack.start()
    async with world.bob.receive() as first:
        await first.queue_empty()
        async with (await world.stack.device(world.bob_pair, other.public_port)).receive() as second:
            await second.queue_empty()
            assert (await end_of(first)).reason == "RECEIVER_DISPLACED"
            await world.send("through the first replica")
            assert world.texts(await second.batch()) == ["through the first replica"]


async def test_a_claim_that_arrives_after_that_of_the_next_stream_displaces_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's first stream broke while its claim was on the way; it goes on with a second one elsewhere."""
    claims: list[asyncio.Future[str]] = []
    arrive = asyncio.Event()
    claim_at_once = ValkeyMailboxes.claim

    async def claim_late(self: ValkeyMailboxes, claim: Claim) -> str:
        async def on_its_way() -> str:
            await arrive.wait()
            return await claim_at_once(self, claim)

        claims.append(asyncio.ensure_future(on_its_way()))
        return await asyncio.shield(claims[0])

    other = await world.stack.start()
    monkeypatch.setattr(ValkeyMailboxes, "claim", claim_late)
    async with world.bob.receive():
        await until(lambda: len(claims) == 1)
    monkeypatch.setattr(ValkeyMailboxes, "claim", claim_at_once)
    async with (await world.stack.device(world.bob_pair, other.public_port)).receive() as second:
        await second.queue_empty()
        arrive.set()
        with pytest.raises(ReceiverDisplacedError):
            await claims[0]
        await world.send("to the second")
        assert world.texts(await second.batch()) == ["to the second"]


async def test_streams_of_two_devices_of_a_user_live_side_by_side(world: World) -> None:
    tablet_pair = world.stack.realm.approve(world.bob_pair)
    tablet = await world.device(tablet_pair)
    async with world.bob.receive() as first, tablet.receive() as second:
        await first.queue_empty()
        await second.queue_empty()
        await world.send("to both")
        assert world.texts(await first.batch()) == ["to both"]
        assert [text_of(one, tablet_pair) for one in await second.batch()] == ["to both"]


async def test_a_device_that_does_not_read_holds_little_and_can_be_displaced(world: World) -> None:
    await world.fill([bytes(250_000)] * 100)
    async with world.bob.receive() as lazy:
        pushed, before = world.counted("keypost_delivery_pushed_total"), -1.0
        while pushed != before or pushed == 0:
            before = pushed
            await asyncio.sleep(0.2)  # so long nothing is pushed: the stream is stuck in writing
            pushed = world.counted("keypost_delivery_pushed_total")
        assert pushed < 100
        async with (await world.device(world.bob_pair)).receive() as second:
            assert await second.batch()
            await until(lambda: world.counted("keypost_delivery_streams_ended_total", reason="RECEIVER_DISPLACED") == 1)
        assert (await end_of(lazy)).reason == "RECEIVER_DISPLACED"


async def test_when_the_device_is_gone_everything_is_released(world: World) -> None:
    async with world.bob.receive() as stream:
        await stream.queue_empty()
        assert await subscriptions(world.stack) == 1
    await until(lambda: world.counted("keypost_calls_under_way", method=RECEIVE) == 0)
    assert world.counted("keypost_delivery_streams") == 0
    async with asyncio.timeout(10), Redis.from_url(world.stack.valkey.url) as client:
        assert not await client.exists(f"keypost:{{{world.bob_pair.address}}}:receiver")
        while await client.pubsub_shardchannels():
            await client.ping()


async def subscriptions(stack: Stack) -> int:
    async with Redis.from_url(stack.valkey.url) as client:
        return len(await client.pubsub_shardchannels())


async def test_a_shutdown_ends_streams_and_loses_nothing(stack: Stack) -> None:
    world = World(stack)
    async with stack.replica() as service:
        alice = await stack.device(world.alice_pair, service.public_port)
        bob = await stack.device(world.bob_pair, service.public_port)
        await alice.send_text("bob", "kept")
        stream = await bob.receive().__aenter__()
        await stream.backlog()
    error = await end_of(stream)
    assert (error.metadata["code"], error.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
    await world.start()
    async with world.bob.receive() as again:
        assert world.texts(await again.backlog()) == ["kept"]


async def test_a_stream_ends_after_its_hour(stack: Stack) -> None:
    world = World(stack)
    await world.start(stream_seconds=0.3)
    async with world.bob.receive() as stream:
        error = await end_of(stream)
        assert (error.metadata["code"], error.reason) == ("UNAVAILABLE", "STREAM_EXPIRED")


async def test_with_the_mailboxes_away_streams_end(world: World) -> None:
    async with world.bob.receive() as stream:
        await stream.queue_empty()
        world.stack.valkey.kill()
        error = await end_of(stream)
        assert (error.metadata["code"], error.reason) == ("UNAVAILABLE", "MAILBOXES_UNAVAILABLE")
    world.stack.valkey.start()
    async with world.bob.receive() as stream:
        await stream.queue_empty()
        await world.send("again")
        assert world.texts(await stream.batch()) == ["again"]


async def test_the_mailbox_survives_renewal_and_the_old_key_s_stream_ends(world: World) -> None:
    await world.send("before")
    async with world.bob.receive() as stream:
        await stream.backlog()
        renewed = world.stack.realm.renew(world.bob_pair)
        world.stack.directory.tell("bob", ended_fingerprint=world.bob_pair.fingerprint)
        error = await end_of(stream)
        assert (error.metadata["code"], error.reason) == ("UNAUTHENTICATED", "TOKEN_REFUSED")
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await world.bob.send_text("alice")
    async with (await world.device(renewed)).receive() as stream:
        assert world.texts(await stream.backlog()) == ["before"]


async def test_another_device_s_renewal_ends_no_stream(world: World) -> None:
    tablet = world.stack.realm.approve(world.bob_pair)
    async with world.bob.receive() as stream:
        await stream.queue_empty()
        world.stack.realm.renew(tablet)
        world.stack.directory.tell("bob", ended_fingerprint=tablet.fingerprint)
        await until(lambda: world.counted("keypost_delivery_key_events_total") == 1)
        await world.send("still here")
        assert world.texts(await stream.batch()) == ["still here"]


async def test_a_revoked_device_is_out_at_its_event(world: World) -> None:
    tablet_pair = world.stack.realm.approve(world.bob_pair)
    tablet = await world.device(tablet_pair)
    async with tablet.receive() as stream:
        await stream.queue_empty()
        world.stack.realm.revoke(tablet_pair)
        world.stack.directory.tell(
            "bob", kind=key_info_pb2.KEY_EVENT_KIND_REVOKED, ended_fingerprint=tablet_pair.fingerprint
        )
        assert (await end_of(stream)).reason == "TOKEN_REFUSED"
    async with tablet.receive() as stream:
        assert (await end_of(stream)).reason == "TOKEN_REFUSED"


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([pb.ReceiveRequest()], "start"),
        ([pb.ReceiveRequest(acknowledge=pb.Acknowledge())], "start"),
        ([pb.ReceiveRequest(start=pb.Start(max_unacknowledged=257))], "start.max_unacknowledged"),
        ([pb.ReceiveRequest(start=pb.Start())] * 2, "acknowledge"),
        (
            [
                pb.ReceiveRequest(start=pb.Start()),
                pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=["1-1"] * 257)),
            ],
            "acknowledge.delivery_ids",
        ),
        (
            [
                pb.ReceiveRequest(start=pb.Start()),
                pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=["1-1", "9" * 1000])),
            ],
            "acknowledge.delivery_ids[1]",
        ),
    ],
)
async def test_what_a_device_may_not_say(world: World, requests: list[pb.ReceiveRequest], field: str) -> None:
    stream = world.bob.receive()
    for request in requests:
        await stream.say(request)
    error = await end_of(stream)
    assert (error.metadata["code"], error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error.metadata["field"] == field


async def test_a_device_that_says_nothing_at_all(world: World) -> None:
    stream = world.bob.receive()
    await stream.call.done_writing()
    assert (await end_of(stream)).reason == "INVALID_FIELD"


async def test_a_stream_that_does_not_say_start_ends_soon(stack: Stack) -> None:
    world = World(stack)
    await world.start(stream_start_seconds=0.05)
    silent = SimulatedStream(world.bob.stub.Receive(metadata=world.bob.metadata()), 0)
    refusal = await end_of(silent)
    assert (refusal.reason, refusal.metadata["code"]) == ("START_MISSING", "DEADLINE_EXCEEDED")


async def test_silent_streams_of_one_device_leave_room_for_others(stack: Stack) -> None:
    world = World(stack)
    await world.start(max_calls=20)
    silent = [SimulatedStream(world.bob.stub.Receive(metadata=world.bob.metadata()), 0) for _ in range(25)]
    ends = [asyncio.create_task(end_of(stream)) for stream in silent]
    await until(lambda: sum(end.done() for end in ends) == 15)
    assert {end.result().reason for end in ends if end.done()} == {"RATE_LIMITED"}
    await world.send("here all the same")
    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_how_often_a_message_was_handed_out_is_told(world: World) -> None:
    await world.send("hard to take")
    for attempts in (1, 2, 3):
        async with world.bob.receive() as stream:
            (delivery,) = await stream.batch()
            assert delivery.attempts == attempts
            await stream.queue_empty()
            if attempts == 3:
                await world.send("another")
                (delivery,) = await stream.batch()
                assert delivery.attempts == 1
