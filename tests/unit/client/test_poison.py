"""What fails again and again is reported, not looped: in the client, and in the application.

That a process dies in the middle is tried in ``tests/integration/client/test_killed.py``.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from keypost.client import handing_out, suspects
from keypost.client.look_ups import LookUps
from keypost.clock import MINUTE
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.keystore.errors import KeyStoreUnavailableError
from keypost.protocol.encoding import sha256
from support.clock import START
from support.surfaces import asyncio_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.clock import ManualClock
    from support.simulation import Services


async def handed_out_first(person: Any) -> Any:
    """Have a message handed out, and leave without having handled it."""
    async with aclosing(person.client.receive(follow=False)) as messages:
        async for message in messages:
            return message
    return None


def attempted(times: int) -> Callable[[pb.Delivery], pb.Delivery]:
    """Return what ``Services.deliver`` can be: everything was handed out that often, as it says."""

    def deliver(delivery: pb.Delivery) -> pb.Delivery:
        told = pb.Delivery()
        told.CopyFrom(delivery)
        told.attempts = times
        return told

    return deliver


async def count_attempts(person: Any, raw: bytes, times: int) -> None:
    for _ in range(times):
        await person.client._parts.context.store.run(lambda store: store.attempts.begin(sha256(raw), START))


async def test_what_the_application_never_handles_is_set_aside_and_blocks_nothing(alice: Any, bob: Any) -> None:
    for text in ("poison", "after"):
        await alice.client.send("bob", text)
    found = [await handed_out_first(bob) for _ in range(handing_out.ATTEMPTS)]
    assert [(message.text, message.attempts) for message in found] == [("poison", n + 1) for n in range(5)]
    assert bob.reasons() == []
    assert [message.text for message in await bob.inbox()] == ["after"]
    assert bob.reasons("set_aside") == ["HANDLED_TOO_OFTEN"]
    assert bob.events[0].facts == {"sender": str(alice.client.address), "message_id": str(found[0].message_id)}
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["HANDLED_TOO_OFTEN"]


async def test_what_was_never_handled_is_listed_and_handed_out_again_by_hand(
    alice: Any, bob: Any, open_client: Any
) -> None:
    sent = await alice.client.send("bob", "poison")
    for _ in range(handing_out.ATTEMPTS):
        await handed_out_first(bob)
    assert await bob.inbox() == []
    (kept,) = await bob.client.list_set_aside()
    assert (kept.reason, kept.username, kept.size) == ("HANDLED_TOO_OFTEN", "alice", len("poison"))
    assert (kept.message_id, kept.accept_time) == (sent.message_id, sent.accept_time)
    await bob.client.close()
    bob = await open_client("bob")
    assert await bob.client.retry_set_aside() == 1
    assert await bob.client.list_set_aside() == ()
    (again,) = await bob.inbox()
    assert (again.text, again.attempts, again.redelivered) == ("poison", 1, True)
    assert await bob.client.retry_set_aside() == 0


async def test_what_is_brought_back_comes_to_an_iteration_that_runs(alice: Any, bob: Any) -> None:
    await alice.client.send("bob", "poison")
    for _ in range(handing_out.ATTEMPTS):
        await handed_out_first(bob)
    async with aclosing(bob.client.receive()) as messages:
        await alice.client.send("bob", "after")
        assert (await anext(messages)).text == "after"
        assert await bob.client.retry_set_aside() == 1
        assert (await anext(messages)).text == "poison"


async def test_a_file_that_was_never_handled_keeps_its_bytes(alice: Any, bob: Any, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    await alice.client.send_file("bob", path)
    for _ in range(handing_out.ATTEMPTS):
        await handed_out_first(bob)
    assert await bob.inbox() == []
    assert [kept.size for kept in await bob.client.list_set_aside()] == [10]
    assert await bob.client.retry_set_aside() == 1
    assert [message.file.size for message in await bob.inbox()] == [10]


@pytest.mark.parametrize("times", [2, 3, 6, 2**32 - 1])
async def test_the_word_of_delivery_alone_sets_nothing_aside(
    alice: Any, bob: Any, services: Services, times: int
) -> None:
    """A network that breaks again and again, or a service that lies, must cost no message."""
    services.deliver = attempted(times)
    services.in_batches = True
    texts = ["one", "two", "three"]
    for text in texts:
        await alice.client.send("bob", text)
    assert [message.text for message in await bob.inbox()] == texts
    assert bob.events == []


async def test_what_this_device_failed_at_is_set_aside_unopened_and_the_rest_comes(
    alice: Any, bob: Any, services: Services
) -> None:
    services.in_batches = True
    for text in ("one", "poison", "two"):
        await alice.client.send("bob", text)
    raw = services.mailboxes[bob.client.address][1].envelope
    await count_attempts(bob, raw, suspects.ATTEMPTS - suspects.TOGETHER)
    services.deliver = attempted(suspects.ATTEMPTS + 1)
    assert [message.text for message in await bob.inbox()] == ["one", "two"]
    assert bob.reasons("set_aside") == ["DELIVERED_TOO_OFTEN"]
    assert services.mailboxes[bob.client.address] == []
    (kept,) = await bob.client.list_set_aside()
    assert (kept.reason, kept.username, kept.size, kept.message_id) == ("DELIVERED_TOO_OFTEN", "", len(raw), None)
    assert await bob.client.retry_set_aside() == 1
    assert [message.text for message in await bob.inbox()] == ["poison"]


async def test_an_attempt_that_the_disk_ended_does_not_count(
    alice: Any, bob: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alice.client.send("bob", "one")
    services.deliver = attempted(3)

    def full(*_: Any) -> None:
        raise KeyStoreUnavailableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("keypost.client.receiving.settle", full)
        for _ in range(suspects.ATTEMPTS + 1):
            with pytest.raises(KeyStoreUnavailableError):
                await bob.inbox()
    assert [message.text for message in await bob.inbox()] == ["one"]


async def test_what_waits_and_kills_this_device_each_time_is_set_aside(
    alice: Any, open_client: Any, clock: ManualClock, services: Services
) -> None:
    behind = 0
    bob = await open_client("bob", clock=lambda: clock() - behind)
    await bob.client.enroll("bob")
    behind = 6 * MINUTE
    await alice.client.send("bob", "early")
    raw = services.mailboxes[bob.client.address][0].envelope
    assert await bob.inbox() == []
    assert bob.reasons("waiting") == ["RECORD_FROM_FUTURE"]
    await bob.client.close()
    bob = await open_client("bob")
    await count_attempts(bob, raw, suspects.ATTEMPTS)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["DELIVERED_TOO_OFTEN"]
    assert await bob.client.retry_set_aside() == 1
    assert [message.text for message in await bob.inbox()] == ["early"]


async def test_the_list_of_what_was_set_aside_is_bounded(alice: Any, bob: Any, services: Services) -> None:
    await services.put(bob.client.address, b"rubbish")
    await alice.client.send("bob", "poison")
    for _ in range(handing_out.ATTEMPTS):
        await handed_out_first(bob)
    assert await bob.inbox() == []
    both = await bob.client.list_set_aside()
    assert [kept.reason for kept in both] == ["MALFORMED_STATEMENT", "HANDLED_TOO_OFTEN"]
    assert await bob.client.list_set_aside(limit=1) == both[:1]
    assert isinstance(both[1].message_id, UUID)


@asyncio_only  # it looks into the client from within
async def test_who_is_ended_while_a_service_takes_its_time_has_not_failed_at_an_envelope(
    alice: Any, bob: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alice.client.send("bob", "one")
    raw = services.mailboxes[bob.client.address][0].envelope
    services.deliver = attempted(suspects.TOGETHER + 1)
    real, counted = LookUps.all, []

    def count(store: Any) -> int:
        begun: int = store.attempts.begin(sha256(raw), START)
        store.attempts.take_back(sha256(raw))
        return begun - 1

    async def slow(*args: Any) -> Any:
        # What a client would find that is opened after this one was killed here.
        counted.append(await bob.client._parts.context.store.run(count))
        return await real(*args)

    monkeypatch.setattr(LookUps, "all", slow)
    assert [message.text for message in await bob.inbox()] == ["one"]
    assert set(counted) == {0}
