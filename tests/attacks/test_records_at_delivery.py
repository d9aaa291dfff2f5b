"""What a directory could say of a user that is not so: to delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.clock import HOUR, SECOND
from keypost.keys.v1 import key_info_pb2 as pb
from support.attacks import check_told
from support.delivery import Stack, open_stack, until
from support.delivery_world import World
from support.lies import STRANGER, resigned
from support.realm import SimulatedRealm
from support.refusals import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost.delivery.v1 import envelope_pb2
    from support.clock import ManualClock

UNAVAILABLE = "DIRECTORY_UNAVAILABLE"
LOOK_UPS = "keypost_delivery_look_ups_total"


@pytest.fixture
async def stack(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def world(stack: Stack) -> World:
    made = World(stack)
    await made.start()
    return made


def answer(world: World, key_info: pb.KeyInfo) -> None:
    """Have the directory say this of Bob."""
    world.directory.answer = lambda username, honest: key_info if username == "bob" else honest


async def is_not_relied_upon(world: World, envelope: envelope_pb2.Envelope, reason: str, harm: str = "") -> None:
    """Demand that nothing is stored, that the sender may try again, and that the operator is told why."""
    await refused(world.alice.send(envelope), UNAVAILABLE, harm)
    check_told([told for told in (reason, "OK") if world.counted(LOOK_UPS, outcome=told)], reason)


async def test_a_forged_record(world: World) -> None:
    realm = world.stack.realm
    realm.approve(world.bob_pair)
    forged = resigned(realm, realm.statement("bob"), STRANGER)
    forged.record.record_key_fingerprint = realm.record_signer.fingerprint
    answer(world, forged)
    await is_not_relied_upon(world, world.alice.envelope("bob"), "SIGNATURE_INVALID")


async def test_the_record_of_another_user(world: World) -> None:
    world.stack.realm.enroll("mallory")
    answer(world, world.stack.realm.key_info("mallory"))
    await is_not_relied_upon(world, world.alice.envelope("bob"), "RECORD_REFUSED")


async def test_a_record_that_has_expired(world: World, clock: ManualClock) -> None:
    answer(world, world.stack.realm.key_info("bob"))
    clock.advance(HOUR)
    await is_not_relied_upon(world, world.alice.envelope("bob"), "RECORD_EXPIRED")


async def test_a_record_from_before_a_device_was_revoked(world: World, clock: ManualClock) -> None:
    realm = world.stack.realm
    laptop = realm.approve(world.bob_pair)
    old = realm.statement("bob")
    realm.revoke(laptop)
    await world.send("before")
    clock.advance(HOUR)
    old.this_update, old.next_update = clock(), clock() + HOUR
    answer(world, resigned(realm, old))
    async with (await world.device(laptop)).receive() as stream:
        await refused(stream.backlog(), UNAVAILABLE)


async def test_two_records_of_one_revision(world: World, clock: ManualClock) -> None:
    realm = world.stack.realm
    laptop = realm.approve(world.bob_pair)
    await world.send("before")
    realm.revoke(laptop)
    realm.users["bob"].revision -= 1
    clock.advance(HOUR)
    await is_not_relied_upon(world, world.alice.envelope("bob"), "EQUIVOCATION")


async def test_a_user_who_was_there_is_denied(world: World, clock: ManualClock) -> None:
    await world.send("before")
    clock.advance(HOUR)
    envelope = world.alice.envelope("bob")
    del world.stack.realm.users["bob"]
    await is_not_relied_upon(world, envelope, "RECORD_REGRESSED", harm="USER_NOT_FOUND")


async def test_trust_of_another_root(stack: Stack, clock: ManualClock) -> None:
    world, true = World(stack), stack.directory.trust
    stack.directory.trust = SimulatedRealm(clock=clock, root=STRANGER).signed_trust
    service = await stack.start()
    alice = await stack.device(world.alice_pair, service.public_port)
    await refused(alice.send_text("bob"), UNAVAILABLE)
    stack.directory.trust = true
    clock.advance(10 * SECOND)
    assert (await alice.send_text("bob")).HasField("stored")


async def test_an_event_of_a_revocation_that_never_was(world: World) -> None:
    bob = world.bob_pair
    await world.fill([b"waits"])
    revoked = {"kind": pb.KEY_EVENT_KIND_REVOKED, "fingerprint": bob.fingerprint, "ended_fingerprint": bob.fingerprint}
    world.directory.tell("bob", **revoked)
    await until(lambda: world.directory.asked["bob"] == 1)
    world.directory.tell("alice", **revoked)
    await until(lambda: world.directory.asked["alice"] == 1)  # by then what was to be emptied for Bob is
    async with world.bob.receive() as stream:
        assert [delivery.envelope for delivery in await stream.backlog()] == [b"waits"]
