"""A further device: invited by one, approved by it, and not before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client import NotEnrolledError
from keypost.client.joining import InvitationExpiredError
from keypost.client.key_requests import ClockWrongError
from keypost.clock import MINUTE
from keypost.errors import InvalidArgumentError
from keypost.protocol.errors import SuiteRefusedError
from keypost.protocol.invitations import read_invitation, read_request_text
from keypost.protocol.suites import STRONG, WEAK
from support.second_device import approved
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.second_device import Second
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_further_device_joins_and_both_receive(alice: Any, bob: Any, second: Second) -> None:
    address = await approved(alice, second)
    assert address.username == "alice"
    assert second.client.address == address != alice.client.address
    assert second.person.numbers() == [1]
    await bob.client.send("alice", "to both")
    assert [message.text for message in await alice.inbox()] == ["to both"]
    assert [message.text for message in await second.person.inbox()] == ["to both"]
    await second.client.send("bob", "from the second")
    [message] = await bob.inbox()
    assert (message.text, message.sender) == ("from the second", address)


async def test_what_was_sealed_before_a_device_came_is_set_aside_and_told(
    alice: Any, bob: Any, second: Second, services: Services
) -> None:
    """Delivery does not put it there; whoever does is told from somebody who seals to a wrong key."""
    await bob.client.send("alice", "before")
    await approved(alice, second)
    [older] = services.mailboxes[alice.client.address]
    await services.put(second.client.address, older.envelope)
    await bob.client.send("alice", "after")
    assert [message.text for message in await second.person.inbox()] == ["after"]
    [event] = [event for event in second.person.events if event.kind == "set_aside"]
    assert event.reason == "NOT_FOR_THIS_DEVICE"
    assert "a device opens nothing from before it came" in event.sentence


async def test_both_devices_know_one_identity(alice: Any, second: Second) -> None:
    await approved(alice, second)
    records = [await person.client.devices() for person in (alice, second.person)]
    assert len({(record.epoch, record.tree(STRONG).root) for record in records}) == 1
    assert [key.address for key in records[0].keys] == [alice.client.address, second.client.address]
    assert records[0].keys[1].request.parent_fingerprint == records[0].keys[0].fingerprint


async def test_the_same_invitation_gives_the_same_request_after_a_restart_too(
    alice: Any, second: Second, open_client: Any
) -> None:
    assert (await second.client.join(second.invitation)).text == second.request
    await second.client.close()
    again = await open_client("second", bundle=None)
    assert (await again.client.join(second.invitation)).text == second.request
    await alice.client.approve(second.request)
    assert await again.client.joined() == again.client.address


async def test_another_invitation_gives_another_request(alice: Any, second: Second) -> None:
    other = (await alice.client.invite()).text
    request = await second.client.join(other)
    assert request.text != second.request
    await alice.client.approve(request.text)
    assert await second.client.joined() == request.address


async def test_who_waits_ends_as_soon_as_it_is_approved(alice: Any, second: Second, services: Services) -> None:
    waiting = asyncio.create_task(second.client.joined())
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_context: Any) -> None:
        asked.set()
        await go_on.wait()

    services.faults["GetKeyInfo"] = [hold]
    await asked.wait()
    go_on.set()
    assert not waiting.done()
    await alice.client.approve(second.request)
    assert await waiting == second.client.address


async def test_an_approval_while_the_device_was_off_is_found_at_the_next_start(
    alice: Any, second: Second, open_client: Any
) -> None:
    await second.client.close()
    await alice.client.approve(second.request)
    again = await open_client("second", bundle=None)
    assert again.client.address == read_invitation(second.invitation).address
    assert await again.client.joined() == again.client.address


async def test_a_directory_that_is_away_is_waited_for(alice: Any, second: Second, services: Services) -> None:
    await alice.client.approve(second.request)
    services.faults["GetKeyInfo"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(12)]
    assert await second.client.joined() == second.client.address


@pytest.mark.parametrize("method", ["Approve", "GetKeyInfo", "BeginApproval"])
async def test_an_answer_that_is_lost_once_costs_nothing(
    alice: Any, open_client: Any, services: Services, method: str
) -> None:
    services.lost_answers[method] = 1
    person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    assert await person.client.joined() == request.address
    assert len(services.realm.users["alice"].keys) == 2


class CrashError(Exception):
    """The process ends here."""


def _crash(*_arguments: object, **_named: object) -> Any:
    raise CrashError


CRASHES = {
    "before the pair is written": "keypost.client.joining.put_pending",
    "once it is written": "keypost.client.joining._join_request",
    "before the record is asked for": "keypost.client.joining.Joining._ask",
    "before the pair is promoted": "keypost.client.first_key.FirstKey.finish",
    "once it is promoted": "keypost.client.context.Context.negotiation",
}


@pytest.mark.parametrize("place", CRASHES)
async def test_a_crash_between_any_two_steps_of_joining_loses_nothing(
    alice: Any, open_client: Any, services: Services, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    person = await open_client("second")
    invitation = (await alice.client.invite()).text
    with monkeypatch.context() as patch:
        patch.setattr(CRASHES[place], _crash)
        with pytest.raises(CrashError):
            await _whole(alice, person, invitation)
    await person.client.close()
    again = await open_client("second", bundle=None)
    if again.client.address is None:
        await _whole(alice, again, invitation)
    assert again.client.address == (await again.client.devices()).keys[1].address
    assert len(services.realm.users["alice"].keys) == 2


async def _whole(alice: Any, person: Any, invitation: str) -> None:
    request = await person.client.join(invitation)
    await alice.client.approve(request.text)
    await person.client.joined()


async def test_an_invitation_ends_after_ten_minutes(
    alice: Any, second: Second, open_client: Any, clock: ManualClock
) -> None:
    clock.advance(15 * MINUTE)
    with pytest.raises(InvitationExpiredError, match="invite anew"):
        await second.client.joined()
    third = await open_client("third")
    with pytest.raises(InvitationExpiredError):
        await third.client.join(second.invitation)
    assert third.client.address is None
    await alice.client.approve(second.request)  # the simulated CA forgets no nonce
    assert await second.client.joined() == second.client.address


async def test_a_clock_that_is_behind_is_told(alice: Any, open_client: Any, clock: ManualClock) -> None:
    invitation = (await alice.client.invite()).text
    person = await open_client("second", clock=lambda: clock() - 6 * MINUTE)
    with pytest.raises(ClockWrongError):
        await person.client.join(invitation)


async def test_without_an_invitation_there_is_nothing_to_wait_for(open_client: Any) -> None:
    person = await open_client("second")
    for call in (person.client.joined(), person.client.invite(), person.client.approve("x"), person.client.devices()):
        with pytest.raises((NotEnrolledError, InvalidArgumentError)):
            await call


async def test_a_profile_that_is_a_device_joins_nobody(alice: Any, bob: Any) -> None:
    invitation = (await alice.client.invite()).text
    with pytest.raises(InvalidArgumentError, match="this profile is bob/"):
        await bob.client.join(invitation)


async def test_a_device_that_was_approved_meanwhile_is_found_out_by_another_join(alice: Any, second: Second) -> None:
    await alice.client.approve(second.request)
    other = (await alice.client.invite()).text
    with pytest.raises(InvalidArgumentError, match="already"):
        await second.client.join(other)
    assert second.client.address == read_invitation(second.invitation).address


async def test_a_pair_that_answers_an_invitation_is_none_that_enrols(
    second: Second, alice: Any, services: Services
) -> None:
    services.realm.end_epoch("alice")
    await second.client.enroll("alice")
    keys = [read_request_text(second.request).fingerprint, second.client._parts.identity.current.fingerprint]
    assert keys[0] != keys[1]
    assert alice.client.address is not None


async def test_a_suite_that_the_realm_does_not_allow_is_not_asked_for(
    alice: Any, open_client: Any, services: Services
) -> None:
    services.realm.constants = replace(services.realm.constants, allowed_suites=(STRONG.id,))
    services.trust = services.realm.signed_trust(sequence=2)
    weak = await open_client("weak", minimum_suite=WEAK)
    with pytest.raises(SuiteRefusedError, match="not allowed"):
        await weak.client.join((await alice.client.invite()).text, WEAK)


async def test_what_is_pasted_wrongly_is_told(alice: Any, second: Second) -> None:
    with pytest.raises(InvalidArgumentError, match="is of kind request"):
        await second.client.join(second.request)
    with pytest.raises(InvalidArgumentError, match="is of kind invitation"):
        await alice.client.approve(second.invitation)
    with pytest.raises(InvalidArgumentError, match="was cut"):
        await alice.client.approve(second.request[:-1])


async def test_other_devices_hear_of_a_new_one_once(
    alice: Any, second: Second, services: Services, open_client: Any
) -> None:
    await approved(alice, second)
    third = services.realm.approve(alice.client._parts.identity.current)
    await second.client.devices()
    await second.client.devices()
    assert second.person.reasons("info") == ["NEW_DEVICE"]
    [event] = second.person.events
    assert event.facts["device"] == third.address.device_id
    await second.client.close()
    again = await open_client("second", bundle=None)
    await again.client.devices()
    assert again.reasons() == []


async def test_an_approval_in_the_name_of_this_device_is_told_to_it(alice: Any, services: Services) -> None:
    """Whoever has its key approves devices as it does."""
    services.realm.approve(alice.client._parts.identity.current)
    await alice.client.devices()
    assert alice.reasons("info") == ["NEW_DEVICE"]


async def test_news_that_a_crash_kept_from_being_told_come_at_the_next_start(
    alice: Any, services: Services, open_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.realm.approve(alice.client._parts.identity.current)
    with monkeypatch.context() as patch:
        patch.setattr("keypost.client.own_watch.OwnWatch._tell_devices", _crash)
        with pytest.raises(CrashError):
            await alice.client.devices()
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    await again.client.devices()
    assert again.reasons("info") == ["NEW_DEVICE"]
