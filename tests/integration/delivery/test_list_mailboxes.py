"""What waits for the devices of a user, over real TLS and a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio
import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.errors import RefusedError
from keypost.transport.refusals import read_refusal

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.delivery import SimulatedDevice
    from support.delivery_world import World


async def listed(device: SimulatedDevice) -> list[pb.Mailbox]:
    response = await device.stub.ListMailboxes(pb.ListMailboxesRequest(), metadata=device.metadata())
    return list(response.mailboxes)


async def approved(world: World, parent: DeviceKeyPair) -> DeviceKeyPair:
    """Return a further device of the same user, which the replica knows of."""
    pair = world.stack.realm.approve(parent)
    world.directory.tell(pair.address.username)
    await world.event_arrived()
    return pair


async def test_every_device_of_the_user_is_listed_and_nobody_elses(world: World) -> None:
    await world.send("1", "2")
    accepted = world.stack.clock()
    tablet = await approved(world, world.bob_pair)
    expected = {world.bob_pair.address.device_id: (2, accepted), tablet.address.device_id: (0, 0)}
    for device in (world.bob, await world.device(tablet)):
        found = await listed(device)
        assert {one.device_id: (one.messages, one.oldest_accept_time) for one in found} == expected
        assert [one.device_id for one in found] == sorted(expected)


async def test_what_is_acknowledged_is_counted_no_longer(world: World) -> None:
    await world.send("1", "2")
    async with world.bob.receive() as stream:
        first, _ = await stream.backlog()
        await stream.acknowledge(first.delivery_id)
        await stream.finish()
    assert [one.messages for one in await listed(world.bob)] == [1]


async def test_a_revoked_device_is_listed_no_longer_and_asks_no_longer(world: World) -> None:
    tablet = await approved(world, world.bob_pair)
    device = await world.device(tablet)
    assert len(await listed(device)) == 2
    world.stack.realm.revoke(tablet)
    world.directory.tell("bob")
    await world.event_arrived()
    assert [one.device_id for one in await listed(world.bob)] == [world.bob_pair.address.device_id]
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await refused(device)


async def refused(device: SimulatedDevice) -> None:
    try:
        await listed(device)
    except grpc.aio.AioRpcError as failure:
        raise read_refusal(failure, "delivery").error from None
