"""Devices are withdrawn: by another, by themselves, in time; and what a withdrawn one still can do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client import RevocationReason
from keypost.clock import HOUR, MINUTE
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import KeyRevokedError, KeyUnknownError, NoUsableDeviceError
from keypost.protocol.key_info import REVOKED
from keypost.protocol.revocations import read_revocation
from support.simulation import failing
from support.surfaces import asyncio_only

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.people import Person
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def second(alice: Any, open_client: Any) -> Person:
    """A second device of Alice."""
    person: Person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    await person.client.joined()
    return person


def device_of(person: Any) -> str:
    device_id: str = person.client.address.device_id
    return device_id


def states(record: Any) -> list[tuple[int, int]]:
    return [(key.state, key.reason) for key in record.keys]


async def test_after_a_revocation_a_message_reaches_the_good_device_alone(
    alice: Any, bob: Any, second: Any, services: Services
) -> None:
    await bob.client.send("alice", "to both")
    record = await alice.client.revoke(device_of(second), RevocationReason.LOST)
    assert states(record)[1] == (REVOKED, pb.REVOCATION_REASON_LOST)
    await bob.client.send("alice", "to the good one alone")
    assert [message.text for message in await alice.inbox()] == ["to both", "to the good one alone"]
    assert [d.accept_time for d in services.mailboxes[second.client.address]] == [services.realm.clock()]


async def test_bobs_stale_keys_are_repaired_by_sending(alice: Any, bob: Any, second: Any, services: Services) -> None:
    """Bob holds the record of both devices, and asks nobody before he sends."""
    await bob.client.send("alice", "to both")
    await alice.client.revoke(device_of(second), "retired")
    asked = len(services.requests["GetKeyInfo"])
    sent = await bob.client.send("alice", "repaired")
    assert sent.new_session
    assert len(services.requests["Send"]) == 3
    assert len(services.requests["GetKeyInfo"]) == asked


async def test_a_revoked_device_stops_and_says_why(alice: Any, bob: Any, second: Any) -> None:
    await alice.client.revoke(device_of(second), "lost")
    calls = (
        second.client.devices(),
        second.client.keys("bob"),
        second.client.invite(),
        second.client.revoke(device_of(alice), "lost"),
        second.inbox(),
    )
    for call in calls:
        with pytest.raises(KeyRevokedError, match="stays readable"):
            await call
    assert bob.client.address is not None


async def test_a_revoked_device_sends_nothing(alice: Any, bob: Any, second: Any, clock: ManualClock) -> None:
    await second.client.send("bob", "before")
    await alice.client.revoke(device_of(second), "lost")
    clock.advance(HOUR)
    with pytest.raises(KeyRevokedError):
        await second.client.send("bob", "after")
    assert [message.text for message in await bob.inbox()] == ["before"]


async def test_what_a_revoked_device_has_received_stays_readable(alice: Any, bob: Any, second: Any) -> None:
    await bob.client.send("alice", "in time")
    async for message in second.client.receive(follow=False):
        assert message.text == "in time"
        break  # not handled: it comes again
    await alice.client.revoke(device_of(second), "lost")
    messages = second.client.receive(follow=False)
    assert (await anext(messages)).text == "in time"
    with pytest.raises(KeyRevokedError):
        await anext(messages)


@asyncio_only  # what wakes the housekeeping is reached for on its own loop
async def test_a_device_that_receives_hears_of_its_end_though_delivery_goes_on(
    alice: Any, second: Any, clock: ManualClock, services: Services
) -> None:
    """The own record is read again when it ends, whatever delivery does."""
    opened = asyncio.Event()

    async def note(_context: Any) -> None:
        opened.set()

    async def receive() -> list[str]:
        return [message.text async for message in second.client.receive()]

    services.faults["Receive"] = [note]
    receiving = asyncio.create_task(receive())
    await opened.wait()
    await alice.client.revoke(device_of(second), "lost")
    clock.advance(HOUR)
    second.client._parts.newer.set()
    with pytest.raises(KeyRevokedError):
        await receiving


async def test_a_device_revokes_itself(alice: Any, second: Any) -> None:
    record = await second.client.revoke(device_of(second), "retired")
    assert states(record)[1] == (REVOKED, pb.REVOCATION_REASON_RETIRED)
    with pytest.raises(KeyRevokedError):
        await second.client.devices()
    assert states(await alice.client.devices()) == states(record)


async def test_the_last_device_revokes_itself_and_nobody_can_send(alice: Any, bob: Any) -> None:
    await alice.client.revoke(device_of(alice), "retired")
    with pytest.raises(NoUsableDeviceError):
        await bob.client.send("alice", "to nobody")


async def test_a_compromised_device_takes_with_it_what_it_approved_since(
    alice: Any, second: Any, services: Services, clock: ManualClock
) -> None:
    clock.advance(MINUTE)
    since = clock()
    clock.advance(MINUTE)
    third = services.realm.approve(second.client._parts.identity.current)
    record = await alice.client.revoke(device_of(second), RevocationReason.COMPROMISED, since=since)
    assert record.get(third.fingerprint).state == REVOKED
    assert record.keys[1].state_time == since
    assert [key.address for key in record.good_keys(clock())] == [alice.client.address]


async def test_a_device_of_a_void_branch_stops(
    second: Any, services: Services, clock: ManualClock, open_client: Any
) -> None:
    third = await open_client("third")
    clock.advance(MINUTE)
    request = await third.client.join((await second.client.invite()).text)
    await second.client.approve(request.text)
    await third.client.joined()
    clock.advance(MINUTE)
    second_pair = second.client._parts.identity.current
    services.realm.revoke(second_pair, pb.REVOCATION_REASON_COMPROMISED, clock() - 2 * MINUTE)
    clock.advance(HOUR)
    with pytest.raises(KeyRevokedError):
        await third.inbox()
    assert services.realm.key_record("alice").keys[2].is_good, "the simulated CA has not said so"


async def test_a_revision_that_was_taken_is_signed_anew(alice: Any, second: Any, services: Services) -> None:
    services.faults["Revoke"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN") for _ in range(2)]
    await alice.client.revoke(device_of(second), "lost")
    assert len(services.requests["Revoke"]) == 3
    services.faults["Revoke"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN") for _ in range(9)]
    with pytest.raises(RefusedError, match="REVISION_TAKEN"):
        await alice.client.revoke(device_of(alice), "lost")
    assert len(services.requests["Revoke"]) == 8


async def test_a_change_in_between_is_read_and_the_next_revision_signed(
    alice: Any, second: Any, services: Services
) -> None:
    async def change(context: Any) -> None:
        services.realm.approve(alice.client._parts.identity.current)
        del context

    services.faults["Revoke"] = [change]
    record = await alice.client.revoke(device_of(second), "lost")
    signed = [read_revocation(request.revocation).revision for request in services.requests["Revoke"]]
    assert signed == [3, 4]
    assert record.revision == 4


@pytest.mark.parametrize("lost", [1, 5])
async def test_a_lost_answer_is_asked_for_again(alice: Any, second: Any, services: Services, lost: int) -> None:
    services.lost_answers["Revoke"] = lost
    if lost == 5:
        with pytest.raises(UnreachableError):
            await alice.client.revoke(device_of(second), "lost")
    record = await alice.client.revoke(device_of(second), "lost")
    assert (record.revision, states(record)[1]) == (3, (REVOKED, pb.REVOCATION_REASON_LOST))


async def test_a_second_revocation_changes_nothing(alice: Any, second: Any, services: Services) -> None:
    await alice.client.revoke(device_of(second), "lost")
    await alice.client.revoke(device_of(second), "lost")
    assert len(services.requests["Revoke"]) == 1
    with pytest.raises(RefusedError, match="KEY_ENDED"):
        await alice.client.revoke(device_of(second), "retired")


async def test_an_answer_that_does_not_show_it_is_not_believed(alice: Any, second: Any, services: Services) -> None:
    services.realm.revoke = lambda *_arguments: None  # type: ignore[method-assign]
    with pytest.raises(KeyUnknownError):
        await alice.client.revoke(device_of(second), "lost")


@pytest.mark.parametrize(
    ("device", "reason", "since", "field"),
    [
        ("x", "lost", None, "device_id"),
        ("a" * 16, "lost", None, "device_id"),
        (None, "stolen", None, "reason"),
        (None, "lost", 1, "since"),
        (None, "compromised", 0, "since"),
        (None, "compromised", 2**62, "since"),
        (None, "compromised", True, "since"),
    ],
)
async def test_what_cannot_be_right_is_not_signed(
    alice: Any, services: Services, device: str | None, reason: str, since: Any, field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await alice.client.revoke(device or device_of(alice), reason, since=since)
    assert caught.value.metadata["field"] == field
    assert services.requests["Revoke"] == []
