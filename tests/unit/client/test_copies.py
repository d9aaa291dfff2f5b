"""Copies of what is sent, for the other devices of the own user."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.delivery.v1 import envelope_pb2
from keypost.keystore.errors import KeyStoreFullError
from keypost.keystore.values import Totals
from support.people import FOR_EVER
from support.simulation import failing

if TYPE_CHECKING:
    from support.simulation import Services

AWAY = failing(grpc.StatusCode.UNAVAILABLE, "MAILBOXES_UNAVAILABLE")


@dataclass
class Two:
    """Two devices of Alice."""

    laptop: Any
    phone: Any


@pytest.fixture
async def two(alice: Any, open_client: Any) -> Two:
    phone = await open_client("phone")
    asked = await phone.client.join((await alice.client.invite()).text)
    await alice.client.approve(asked.text)
    await phone.client.joined()
    return Two(alice, phone)


async def copies(person: Any) -> list[tuple[str | None, str]]:
    return [(message.copy_to, message.text) for message in await person.inbox()]


def to_oneself(services: Services, person: Any) -> Any:
    """Return a fault: whatever goes to the own user is refused for now, and nothing else."""

    async def fault(context: Any) -> None:
        header = envelope_pb2.Header.FromString(services.requests["Send"][-1].envelope.header)
        if header.recipient_username == person.client.address.username:
            await AWAY(context)

    return fault


async def test_the_other_device_gets_a_copy_and_the_recipient_one_message(two: Two, bob: Any) -> None:
    sent = await two.laptop.client.send("bob", "hello")
    assert await two.laptop.client.flush() == ()
    [copy] = await two.phone.inbox()
    assert (copy.copy_to, copy.text, copy.message_id) == ("bob", "hello", sent.message_id)
    assert copy.sender == two.laptop.client.address
    assert [(message.copy_to, message.text) for message in await bob.inbox()] == [(None, "hello")]
    assert await copies(two.laptop) == []


async def test_nobody_alone_makes_copies(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "hello")
    assert await alice.client.flush() == ()
    assert len(services.requests["Send"]) == 1
    assert [message.text for message in await bob.inbox()] == ["hello"]


async def test_a_copy_that_fails_keeps_nothing_from_going_out_and_stays(two: Two, bob: Any, services: Services) -> None:
    services.faults["Send"] = [to_oneself(services, two.laptop)] * FOR_EVER
    for body in ("one", "two"):
        await two.laptop.client.send("bob", body)
    left = await two.laptop.client.outbox()
    assert [(message.username, message.copy_to) for message in left] == [("alice", "bob")] * 2
    assert [message.text for message in await bob.inbox()] == ["one", "two"]
    assert await copies(two.phone) == []
    services.faults["Send"] = []
    assert await two.laptop.client.flush() == ()
    assert await copies(two.phone) == [("bob", "one"), ("bob", "two")]


async def test_a_copy_survives_the_crash_of_its_sender(
    two: Two, bob: Any, services: Services, open_client: Any
) -> None:
    services.faults["Send"] = [to_oneself(services, two.laptop)] * FOR_EVER
    await two.laptop.client.send("bob", "hello")
    await two.laptop.client.close()
    services.faults["Send"] = []
    again = await open_client("alice", bundle=None)
    assert await again.client.flush() == ()
    assert await copies(two.phone) == [("bob", "hello")]
    assert [message.text for message in await bob.inbox()] == ["hello"]


async def test_what_has_no_room_with_its_copy_is_refused_and_goes_nowhere(two: Two, bob: Any) -> None:
    store = two.laptop.client._parts.context.store
    limit = await store.run(lambda opened: opened.outbox._limit)

    async def leave_room(totals: Totals) -> None:
        await store.run(lambda opened: setattr(opened.outbox, "_limit", totals))

    await leave_room(Totals(1, limit.size))
    with pytest.raises(KeyStoreFullError):
        await two.laptop.client.send("bob", "to one device of the two")
    assert await two.laptop.client.outbox() == ()
    await leave_room(limit)
    await two.laptop.client.send("bob", "to both")
    assert await two.laptop.client.flush() == ()
    assert [(message.text, message.missed) for message in await bob.inbox()] == [("to both", 0)]
    assert [(message.text, message.missed) for message in await two.phone.inbox()] == [("to both", 0)]


@pytest.mark.usefixtures("bob")
async def test_a_device_that_came_meanwhile_gets_copies_from_then_on(
    two: Two, open_client: Any, services: Services
) -> None:
    await two.laptop.client.send("bob", "before")
    assert await two.laptop.client.flush() == ()
    tablet = await open_client("tablet")
    asked = await tablet.client.join((await two.phone.client.invite()).text)
    await two.phone.client.approve(asked.text)
    await tablet.client.joined()
    await two.laptop.client.send("bob", "after")
    assert await two.laptop.client.flush() == ()
    assert await copies(tablet) == [("bob", "after")]
    assert await copies(two.phone) == [("bob", "before"), ("bob", "after")]
    assert len(services.sent) == 4


async def test_copies_for_a_device_that_is_gone_are_dropped(two: Two, bob: Any, services: Services) -> None:
    services.faults["Send"] = [to_oneself(services, two.laptop)] * FOR_EVER
    await two.laptop.client.send("bob", "hello")
    assert len(await two.laptop.client.outbox()) == 1
    await two.laptop.client.revoke(two.phone.client.address.device_id, "lost")
    services.faults["Send"] = []
    assert await two.laptop.client.flush() == ()
    assert [message.text for message in await bob.inbox()] == ["hello"]
    assert len(services.sent) == 1


async def test_both_devices_copy_to_each_other(two: Two, bob: Any) -> None:
    async with asyncio.timeout(30):
        for device, body in ((two.laptop, "from the laptop"), (two.phone, "from the phone")):
            await device.client.send("bob", body)
            assert await device.client.flush() == ()
    assert await copies(two.laptop) == [("bob", "from the phone")]
    assert await copies(two.phone) == [("bob", "from the laptop")]
    assert [message.text for message in await bob.inbox()] == ["from the laptop", "from the phone"]


async def test_a_new_session_key_and_a_file_are_not_copied(two: Two, bob: Any, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    await two.laptop.client.rotate("bob")
    await two.laptop.client.send_file("bob", path)
    assert await two.laptop.client.flush() == ()
    assert await copies(two.phone) == []
    assert [message.file.name for message in await bob.inbox()] == ["file"]
