"""A device is told what waits for the others of its user, and that it cannot read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost import NotEnrolledError, WaitingElsewhere
from keypost.delivery.v1 import delivery_service_pb2 as pb
from support.simulation import SimulatedDelivery, failing

if TYPE_CHECKING:
    from support.simulation import Services

REASON = "MESSAGES_FOR_OTHER_DEVICES"


async def test_what_waits_for_another_device_is_counted(alice: Any, bob: Any, services: Services) -> None:
    other = services.realm.approve(bob.client._parts.identity.current)
    await bob.client._parts.records.get("bob", refresh=True)
    assert await bob.client.waiting_elsewhere() == ()
    accepted = services.realm.clock()
    await alice.client.send("bob", "for both devices")
    assert await bob.client.waiting_elsewhere() == (WaitingElsewhere(other.address, 1, accepted),)
    assert [message.text for message in await bob.inbox()] == ["for both devices"]
    assert len(await bob.client.waiting_elsewhere()) == 1


async def test_an_only_device_asks_nobody(alice: Any, services: Services) -> None:
    assert await alice.client.waiting_elsewhere() == ()
    assert services.requests["ListMailboxes"] == []


async def test_a_new_device_is_told_how_many_and_why_it_cannot_read_them(
    alice: Any, bob: Any, services: Services
) -> None:
    other = services.realm.approve(bob.client._parts.identity.current)
    await bob.client._parts.records.get("bob", refresh=True)
    await alice.client.send("bob", "one")
    await alice.client.send("bob", "two")
    await bob.client._parts.elsewhere.tell()
    (event,) = [event for event in bob.events if event.reason == REASON]
    assert (event.kind, dict(event.facts)) == ("info", {"messages": 2, "devices": 1})
    assert f"2 message(s) wait for {other.address}" in event.sentence
    assert "only those devices can read them, not this one" in event.sentence


async def test_before_enrolment_there_is_nothing_to_ask(open_client: Any) -> None:
    nobody = await open_client("nobody")
    with pytest.raises(NotEnrolledError):
        await nobody.client.waiting_elsewhere()


async def test_what_delivery_says_of_unknown_devices_is_left_out(
    bob: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.realm.approve(bob.client._parts.identity.current)
    await bob.client._parts.records.get("bob", refresh=True)

    async def lie(_self: object, _request: Any, _context: Any) -> Any:
        return pb.ListMailboxesResponse(mailboxes=[pb.Mailbox(device_id="a" * 16, messages=7), pb.Mailbox(messages=-1)])

    monkeypatch.setattr(SimulatedDelivery, "ListMailboxes", lie)
    assert await bob.client.waiting_elsewhere() == ()


async def test_telling_fails_for_nobody(bob: Any, services: Services) -> None:
    services.realm.approve(bob.client._parts.identity.current)
    await bob.client._parts.records.get("bob", refresh=True)
    services.faults["ListMailboxes"] = [failing(grpc.StatusCode.UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * 9
    await bob.client._parts.elsewhere.tell()
    services.faults["ListMailboxes"] = []
    await bob.client._parts.elsewhere.tell()
    assert REASON not in bob.reasons()
