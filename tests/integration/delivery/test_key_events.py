"""The directory's key events, and what delivery does without them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost.clock import HOUR, SECOND
from keypost.errors import RefusedError
from keypost_services.delivery.compose import compose
from keypost_services.runtime.serving import running
from support.delivery import Stack, directory_server, until
from support.delivery_world import EVENTS, World
from support.realm import seeded_signer

if TYPE_CHECKING:
    from keypost.protocol.key_info import Key
    from support.delivery import SimulatedDevice


@pytest.fixture
async def world(world: World) -> World:
    await world.send("looked up now")
    return world


async def test_records_are_kept_until_an_event_names_a_higher_revision(world: World) -> None:
    assert await world.questions() == 0
    await world.event("alice")
    assert await world.questions() == 0
    await world.event()  # of the revision that is held: nothing new
    assert await world.questions() == 0
    world.stack.realm.renew(world.bob_pair)
    await world.event()
    assert await world.questions() == 1
    assert await world.questions() == 0


async def test_an_answer_that_crossed_an_event_is_not_used(world: World) -> None:
    world.stack.realm.approve(world.bob_pair)
    await world.event()
    world.directory.hold.clear()
    asked = world.directory.asked["bob"]
    sending = asyncio.create_task(world.alice.send(world.alice.envelope("bob", recipient_revision=2)))
    await until(lambda: world.directory.asked["bob"] == asked + 1)
    world.stack.realm.approve(world.bob_pair)  # the answer on its way does not know it yet
    await world.event()
    world.directory.hold.set()
    assert (await sending).HasField("stale_keys")
    assert world.directory.asked["bob"] == asked + 2
    assert world.directory.min_revisions[-1] == 3


async def test_the_watch_resumes_where_it_broke_and_nothing_is_looked_up_again(world: World) -> None:
    await world.event("alice")
    await world.event("alice")
    world.directory.break_watch()
    await world.watch_number(2)
    assert world.directory.resumed_after == [None, 2]
    assert await world.questions() == 0


async def test_events_that_happened_meanwhile_are_handled(world: World) -> None:
    world.directory.refuse_watch = True
    world.directory.break_watch()
    await until(lambda: "key_events" in world.degraded)
    world.stack.realm.renew(world.bob_pair)
    world.directory.tell("bob")
    world.directory.refuse_watch = False
    await until(lambda: (world.service.runtime.metrics.get_sample_value("keypost_delivery_key_events_total") or 0) == 1)
    stale = await world.alice.send(world.alice.envelope("bob", recipient_revision=1))
    assert stale.HasField("stale_keys")
    assert world.degraded == {}


async def test_forgotten_events_drop_everything(world: World) -> None:
    await world.event("alice")
    world.stack.realm.renew(world.bob_pair)  # its event is forgotten
    world.directory.forgotten = 1
    world.directory.break_watch()
    await world.watch_number(3)
    assert world.directory.resumed_after == [None, 1, None]
    stale = await world.alice.send(world.alice.envelope("bob", recipient_revision=1))
    assert stale.HasField("stale_keys")


@pytest.mark.parametrize("end", ["renew", "revoke"])
async def test_a_stream_whose_key_ended_before_the_watch_stood_ends_once_it_stands(stack: Stack, end: str) -> None:
    stack.directory.refuse_watch = True
    world = World(stack)
    async with stack.replica() as world.service:
        alice, bob = await world.device(world.alice_pair), await world.device(world.bob_pair)
        async with alice.receive() as stays, bob.receive() as ends:
            await stays.queue_empty()
            await ends.queue_empty()
            if end == "renew":
                stack.realm.renew(world.bob_pair)
            else:
                stack.realm.revoke(world.bob_pair)
            world.directory.tell("bob")  # nobody hears it
            stack.directory.refuse_watch = False
            await world.watch_number(2)
            assert world.counted(EVENTS) == 0
            with pytest.raises(RefusedError, match="TOKEN_REFUSED") as caught:
                await ends.next()
            assert caught.value.metadata["cause"] == ("KEY_SUPERSEDED" if end == "renew" else "KEY_REVOKED")
            await world.fill([b"still heard"], world.alice_pair)
            assert len(await stays.batch()) == 1


async def test_a_gap_in_the_events_drops_everything(world: World) -> None:
    world.stack.realm.renew(world.bob_pair)
    world.directory.tell("alice", sequence=5)
    await world.watch_number(2)
    assert world.directory.resumed_after[:2] == [None, None]
    stale = await world.alice.send(world.alice.envelope("bob", recipient_revision=1))
    assert stale.HasField("stale_keys")


async def test_without_the_watch_records_live_to_their_next_update(world: World) -> None:
    world.directory.refuse_watch = True
    world.directory.break_watch()
    await until(lambda: "key_events" in world.degraded)
    world.stack.realm.renew(world.bob_pair)
    world.stack.clock.advance(HOUR - 1)
    envelope = world.alice.envelope("bob", recipient_revision=1, keys=[bob_s_first_key(world)])
    assert (await world.alice.send(envelope)).HasField("stored")
    world.stack.clock.advance(1)
    envelope = world.alice.envelope("bob", recipient_revision=1, keys=[bob_s_first_key(world)])
    assert (await world.alice.send(envelope)).HasField("stale_keys")


def bob_s_first_key(world: World) -> Key:
    return world.stack.realm.key_record("bob").get(world.bob_pair.fingerprint)


async def test_a_directory_with_another_service_s_certificate_is_not_believed(stack: Stack) -> None:
    alice_pair = stack.realm.enroll("alice")
    server, port = directory_server(stack.directory, stack.folder / "tls", "delivery")
    await server.start()
    stack.exits.push_async_callback(server.stop, None)
    settings = stack.settings(directory=f"127.0.0.1:{port}")
    async with running("delivery", settings, compose, clock=stack.clock) as service:
        alice = await stack.device(alice_pair, service.public_port)
        with pytest.raises(RefusedError, match="DIRECTORY_UNAVAILABLE"):
            await alice.send(alice.envelope("alice", keys=[stack.realm.key_record("alice").keys[0]]))
    assert stack.directory.asked["alice"] == 0


async def test_records_by_a_new_record_key_are_verified_by_newer_trust(world: World) -> None:
    world.stack.realm.record_signer = seeded_signer(3)
    true = world.stack.realm.signed_trust
    world.directory.trust = lambda: true(sequence=2)
    world.stack.clock.advance(10 * SECOND)
    world.stack.realm.renew(world.bob_pair)
    await world.event()
    assert (await world.alice.send_text("bob")).HasField("stored")


async def test_a_newer_record_ends_the_stream_of_a_replaced_key_before_its_event_does(stack: Stack) -> None:
    world = World(stack)
    await world.start()
    async with world.alice.receive() as stays, world.bob.receive() as ends:
        await stays.queue_empty()
        await ends.queue_empty()
        renewed = world.stack.realm.renew(world.bob_pair)  # nothing tells it
        assert (await world.alice.send_text("bob", "to the new key")).HasField("stored")
        with pytest.raises(RefusedError, match="TOKEN_REFUSED") as caught:
            await ends.next()
        assert caught.value.metadata["cause"] == "KEY_SUPERSEDED"
        assert await reason_of(world.bob) == "KEY_SUPERSEDED"
        assert await world.mailbox(renewed) == ["to the new key"]
        await world.fill([b"still heard"], world.alice_pair)
        assert len(await stays.batch()) == 1
    assert world.counted(EVENTS) == 0


async def reason_of(device: SimulatedDevice) -> str:
    """Return why a device's stream is refused."""
    async with device.receive() as stream:
        with pytest.raises(RefusedError, match="TOKEN_REFUSED") as caught:
            await stream.next()
    return caught.value.metadata["cause"]
