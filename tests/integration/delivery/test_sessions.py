"""Under which sessions Send accepts an envelope: those that an honest client may send under, by its own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, MINUTE
from keypost.errors import RefusedError
from keypost.protocol.extension import DeviceKey

if TYPE_CHECKING:
    from support.delivery_world import World

STALE = "FAILED_PRECONDITION SESSION_STALE envelope.key_extension.extension"
OVER, NO_GOOD_KEY = f"{STALE}.session_create_time", f"{STALE}.creator"


async def said(world: World, recipient: str = "bob", **session: Any) -> str:
    """Return what becomes of an envelope of Alice's under a session: stored, or the field for which it is refused."""
    try:
        response = await world.alice.send(world.alice.envelope(recipient, **session))
    except RefusedError as error:
        return f"{error.metadata['code']} {error.reason} {error.metadata['field']}"
    return str(response.WhichOneof("outcome"))


async def test_any_good_device_of_either_user_may_have_created_the_session(world: World) -> None:
    realm = world.stack.realm
    for pair in (world.bob_pair, realm.approve(world.bob_pair), realm.approve(world.alice_pair)):
        assert await said(world, creator=DeviceKey.of(pair)) == "stored"


async def test_in_the_conversation_with_oneself_another_device_may_have_created_it(world: World) -> None:
    tablet = world.stack.realm.approve(world.alice_pair)
    assert await said(world, "alice", creator=DeviceKey.of(tablet)) == "stored"


@pytest.mark.parametrize("end", ["renew", "revoke"])
async def test_a_session_ends_with_its_creator_s_key(world: World, end: str) -> None:
    tablet = world.stack.realm.approve(world.bob_pair)
    assert await said(world, creator=DeviceKey.of(tablet)) == "stored"
    getattr(world.stack.realm, end)(tablet)
    world.stack.directory.tell("bob")
    await world.event_arrived()
    assert await said(world, creator=DeviceKey.of(tablet)) == NO_GOOD_KEY


async def test_a_creator_s_key_may_expire_on_the_way(world: World) -> None:
    """Clocks differ by five minutes at most: who sealed in time is not refused."""
    tablet = world.stack.realm.approve(world.bob_pair, expire_time=world.stack.clock() + 10 * MINUTE)
    world.stack.clock.advance(15 * MINUTE - 1)
    assert await said(world, creator=DeviceKey.of(tablet)) == "stored"
    world.stack.clock.advance(1)
    assert await said(world, creator=DeviceKey.of(tablet)) == NO_GOOD_KEY


async def test_a_session_may_pass_its_rotation_on_the_way(world: World) -> None:
    over = world.stack.clock() - 7 * DAY - 5 * MINUTE
    assert await said(world, create_time=over + 1) == "stored"
    assert await said(world, create_time=over) == OVER


async def test_what_is_stored_is_answered_as_stored_though_its_session_is_over(world: World) -> None:
    envelope = world.alice.envelope("bob", creator=DeviceKey.of(world.bob_pair))
    await world.alice.send(envelope)
    world.stack.clock.advance(8 * DAY)
    assert (await world.alice.send(envelope)).stored.duplicate
