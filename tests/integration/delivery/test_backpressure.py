"""A sender that does not read its results, or is faster than the mailboxes, is not read on; nothing is dropped."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost_services.delivery.send_stream import Batch
from support.delivery import Stack, until
from support.delivery_world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCHES, ENVELOPES = 16, 250
MANY = 100
MOST_UNDER_WAY = 3
SENDS = "keypost_delivery_sends_total"
STILL = 50
"""What has not moved while the same service answered so many calls of somebody else stands still."""


@pytest.fixture
async def world(stack: Stack) -> World:
    """Nobody is slowed by limits: what is left slows whoever is too fast."""
    made = World(stack)
    await made.start(limits="Send=none,ListMailboxes=none")
    return made


@pytest.fixture
def under_way() -> Callable[[], int]:
    """Tell how many batches are held in memory, beside those that tests before have left in this process."""
    before = _batches()
    return lambda: sum(all(one is not known for known in before) for one in _batches())


def _batches() -> Sequence[Batch]:
    return [one for one in gc.get_objects() if isinstance(one, Batch)]


async def write_all(call: Any, request: pb.SendStreamRequest, number: int) -> None:
    for _ in range(number):
        await call.write(request)
    await call.done_writing()


async def standing_still(world: World, number: Callable[[], object]) -> None:
    """Return when a number no longer changes, by what else gets done meanwhile: a slow machine takes longer."""
    bob = await world.stack.device(world.bob_pair, world.service.public_port)
    last, calls = number(), 0
    while calls < STILL:
        await bob.stub.ListMailboxes(pb.ListMailboxesRequest(), metadata=bob.metadata(), timeout=60)
        now = number()
        last, calls = now, calls + 1 if now == last else 0


async def test_who_does_not_read_results_is_not_read_on(world: World, under_way: Callable[[], int]) -> None:
    # None is well-formed, so nothing of them goes into a mailbox, and their results are long. What the connection
    # takes in of either is little beside all of them: at the sender it does not grow with the speed.
    request = pb.SendStreamRequest(envelopes=[envelope_pb2.Envelope(ciphertext=bytes(1_000))] * 100)
    port = world.service.public_port
    alice = await world.stack.device(world.alice_pair, port, ("grpc.http2.bdp_probe", 0))
    call: Any = alice.stub.SendStream(metadata=alice.metadata(), timeout=60)
    writing = asyncio.create_task(write_all(call, request, MANY))
    await until(lambda: world.counted(SENDS, outcome="INVALID_FIELD") >= 100 and under_way() == MOST_UNDER_WAY)
    await standing_still(world, lambda: (world.counted(SENDS, outcome="INVALID_FIELD"), writing.done()))
    assert not writing.done(), "everything was read although nobody read what became of it"
    assert world.counted(SENDS, outcome="INVALID_FIELD") < MANY * 100
    assert under_way() <= MOST_UNDER_WAY
    results = 0
    while (response := await call.read()) is not grpc.aio.EOF:
        results += len(response.results)
    await writing
    assert results == MANY * 100, "slowed, not dropped"
    assert under_way() == 0


async def test_a_sender_that_is_faster_than_the_mailboxes_is_slowed_and_loses_nothing(
    world: World, under_way: Callable[[], int]
) -> None:
    envelope = world.alice.envelope("bob")
    request = pb.SendStreamRequest(envelopes=[envelope] * ENVELOPES)
    call: Any = world.alice.stub.SendStream(metadata=world.alice.metadata(), timeout=60)
    await call.wait_for_connection()
    world.stack.valkey.freeze()
    try:
        writing = asyncio.create_task(write_all(call, request, BATCHES))
        await until(lambda: under_way() >= MOST_UNDER_WAY)
        assert under_way() <= MOST_UNDER_WAY
        assert not world.counted(SENDS, outcome="accepted")
    finally:
        world.stack.valkey.thaw()
    outcomes = []
    while (response := await call.read()) is not grpc.aio.EOF:
        outcomes += [result.WhichOneof("outcome") for result in response.results]
    await writing
    assert len(outcomes) == BATCHES * ENVELOPES
    assert await world.mailbox(world.bob_pair) == ["hello"]
