"""What a sending stream that stays open must not carry on with; against delivery, by a client that is not ours."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2
from keypost_services.delivery.servicer import MOST_SENDING_STREAMS
from support.envelopes import new_message_id
from support.refusals import refused, served

if TYPE_CHECKING:
    from keypost.delivery.v1.envelope_pb2 import Envelope
    from support.plain_world import PlainWorld


def another(envelope: Envelope) -> Envelope:
    """Return another envelope of the same session, with the very same key extension."""
    copy = envelope_pb2.Envelope.FromString(envelope.SerializeToString())
    header = envelope_pb2.Header.FromString(copy.header)
    header.message_id, header.counter = new_message_id(), header.counter + 1_000_000
    copy.header = header.SerializeToString()
    return copy


async def test_streams_without_end_of_one_device(plain_world: PlainWorld) -> None:
    """Each holds what was read and is not stored yet."""
    mallory = plain_world.mallory
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MOST_SENDING_STREAMS):
            stream = await stack.enter_async_context(mallory.stream())
            await served(stream.results(await mallory.envelope("bob")))
        one_more = await stack.enter_async_context(mallory.stream())
        await refused(one_more.results(await mallory.envelope("bob")), "RATE_LIMITED")
        alice = await stack.enter_async_context(plain_world.alice.stream())
        await served(alice.results(await plain_world.alice.envelope("bob")))
    async with mallory.stream() as again:
        await served(again.results(await mallory.envelope("bob")))


async def test_a_device_that_was_revoked_since_the_last_batch(plain_world: PlainWorld) -> None:
    realm, alice = plain_world.stack.realm, plain_world.alice
    stolen = realm.approve(plain_world.bob.pair)
    await plain_world.tell("bob")
    first = await alice.envelope("bob")
    async with alice.stream() as stream:
        (stored,) = await served(stream.results(first))
        realm.revoke(stolen)
        await plain_world.tell("bob", kind=key_info_pb2.KEY_EVENT_KIND_REVOKED)
        (late,) = await served(stream.results(another(first)))
    assert stored.HasField("stored")
    assert late.stale_keys.HasField("recipient")


async def test_a_session_that_has_ended_since_the_last_batch(plain_world: PlainWorld) -> None:
    alice = plain_world.alice
    first = await alice.envelope("bob")
    async with alice.stream() as stream:
        await served(stream.results(first))
        plain_world.stack.clock.advance(8 * DAY)
        await refused(stream.results(another(first)), "SESSION_STALE")


async def test_a_key_that_has_expired_since_the_last_batch(plain_world: PlainWorld) -> None:
    alice = plain_world.alice
    first = await alice.envelope("bob")
    async with alice.stream() as stream:
        await served(stream.results(first))
        plain_world.stack.clock.advance(91 * DAY)
        await refused(stream.results(another(first)), "TOKEN_REFUSED")
