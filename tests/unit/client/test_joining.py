"""A further device: invited by one, approved by it, and not before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client import NotEnrolledError
from keypost.client.joining import InvitationExpiredError
from keypost.client.key_requests import ClockWrongError
from keypost.client.records import RecordBehindError
from keypost.clock import DAY, MINUTE
from keypost.errors import InvalidArgumentError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    DeviceKeyStolenError,
    EndorsementError,
    KeyRevokedError,
    KeyUnknownError,
    SuiteRefusedError,
)
from keypost.protocol.invitations import read_invitation, read_request_text
from keypost.protocol.key_info import REVOKED
from keypost.protocol.suites import STRONG, WEAK
from support.interleaving import PATIENCE
from support.people import FOR_EVER, IMPATIENT
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.people import Person
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def token_refused(cause: str) -> Any:
    return failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause=cause)


@dataclass
class Second:
    """A second device of Alice on its way."""

    person: Person
    invitation: str
    request: str

    @property
    def client(self) -> Any:
        return self.person.client


@pytest.fixture
async def second(alice: Any, open_client: Any) -> Second:
    """A profile that has answered Alice's invitation."""
    person = await open_client("second")
    invitation = (await alice.client.invite()).text
    request = await person.client.join(invitation)
    return Second(person, invitation, request.text)


async def approved(alice: Any, second: Second) -> Any:
    await alice.client.approve(second.request)
    return await second.client.joined()


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


async def test_an_invitation_holds_what_the_request_must_contain(alice: Any, services: Services) -> None:
    invitation = await alice.client.invite()
    assert read_invitation(invitation.text) == invitation
    own = (await alice.client.devices()).keys[0]
    assert (invitation.realm, invitation.epoch, invitation.revision) == ("example.org", 1, 2)
    assert (invitation.root, invitation.parent_fingerprint) == (own.fingerprint, own.fingerprint)
    assert invitation.expire_time == services.realm.clock() + 10 * MINUTE
    assert "nonce" not in repr(invitation)


async def test_what_is_asked_can_be_looked_at_before_it_is_approved(
    alice: Any, second: Second, services: Services
) -> None:
    request = await alice.client.read_request(second.request)
    assert request.address == read_invitation(second.invitation).address
    assert request.suite is STRONG
    assert services.requests["Approve"] == []


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


async def test_an_approval_whose_answers_are_all_lost_is_asked_for_again(
    alice: Any, second: Second, services: Services
) -> None:
    services.lost_answers["Approve"] = 5
    with pytest.raises(UnreachableError):
        await alice.client.approve(second.request)
    key = await alice.client.approve(second.request)
    assert key.address == read_invitation(second.invitation).address
    assert len(services.realm.users["alice"].keys) == 2


async def test_an_approval_that_never_arrived_is_asked_for_again_after_a_restart(
    alice: Any, second: Second, services: Services, open_client: Any
) -> None:
    services.faults["Approve"] = [failing(UNAVAILABLE, "SHUTTING_DOWN") for _ in range(5)]
    with pytest.raises(RefusedError):
        await alice.client.approve(second.request)
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    await again.client.approve(second.request)
    assert await second.client.joined() == second.client.address


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


async def test_a_nonce_that_the_ca_takes_no_more_says_so(alice: Any, second: Second, services: Services) -> None:
    services.nonces.clear()
    with pytest.raises(RefusedError) as caught:
        await alice.client.approve(second.request)
    assert caught.value.reason == "NONCE_EXPIRED"


async def test_another_change_in_between_wants_a_new_invitation(alice: Any, second: Second, services: Services) -> None:
    services.realm.approve(alice.client._parts.identity.current)
    with pytest.raises(EndorsementError, match="invite anew"):
        await alice.client.approve(second.request)
    request = await second.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    assert await second.client.joined() == request.address


async def test_a_change_that_takes_the_revision_at_the_last_moment_is_the_cas_to_refuse(
    alice: Any, second: Second, services: Services
) -> None:
    services.faults["Approve"] = [failing(grpc.StatusCode.ABORTED, "REVISION_TAKEN")]
    with pytest.raises(RefusedError, match="REVISION_TAKEN"):
        await alice.client.approve(second.request)
    assert await alice.client.approve(second.request)


async def test_a_renewal_in_between_wants_a_new_invitation(alice: Any, second: Second) -> None:
    await alice.client.renew()
    with pytest.raises(EndorsementError, match="earlier key of this one"):
        await alice.client.approve(second.request)


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


def end(services: Services, second: Second, how: str) -> type[Exception]:
    """Have the key of a device that does not know yet that it is approved renewed by a thief, or revoked.

    Return what the device is to be told.
    """
    first = second.client._parts.identity.ring.pending
    if how == "renewed":
        services.realm.renew(first)
        return DeviceKeyStolenError
    services.realm.revoke(first)
    return KeyRevokedError


ENDS = ["renewed", "revoked"]


async def check_told(person: Person, told: type[Exception]) -> None:
    """Have a device wait for its approval until it is told why that is in vain; one that is not would wait for ever."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(told):
            await person.client.joined()


@pytest.mark.parametrize("how", ENDS)
async def test_a_device_whose_key_ended_before_it_knew_of_it_says_so(
    alice: Any, second: Second, services: Services, open_client: Any, how: str
) -> None:
    await alice.client.approve(second.request)
    told = end(services, second, how)
    for _ in range(2):
        await check_told(second.person, told)
    with pytest.raises(told):
        await second.client.join((await alice.client.invite()).text)
    await second.client.close()
    again = await open_client("second", bundle=None)
    await check_told(again, told)


async def test_a_device_whose_first_key_was_stolen_stops_for_good(
    alice: Any, second: Second, services: Services, open_client: Any
) -> None:
    """It was off when it was approved, and when its key was renewed."""
    await alice.client.approve(second.request)
    end(services, second, "renewed")
    await second.client.close()
    device = await open_client("second", bundle=None)
    await check_told(device, DeviceKeyStolenError)
    for call in (device.client.renew, device.client.devices, device.inbox, device.client.joined):
        with pytest.raises(DeviceKeyStolenError):
            await call()
    assert device.reasons("error") == ["DEVICE_KEY_STOLEN"]
    await device.client.close()
    again = await open_client("second", bundle=None)
    with pytest.raises(DeviceKeyStolenError):
        await again.client.send("bob", "x")


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("refusals", [0, FOR_EVER], ids=["in the record", "in no record any more"])
async def test_that_a_key_ended_is_found_out_by_another_join(
    alice: Any, second: Second, services: Services, how: str, refusals: int
) -> None:
    await alice.client.approve(second.request)
    told = end(services, second, how)
    invitation = (await alice.client.invite()).text
    services.faults["GetKeyInfo"] = [token_refused("UNKNOWN_KEY")] * refusals
    with pytest.raises(told):
        await second.client.join(invitation)


@pytest.mark.parametrize("how", ENDS)
async def test_a_key_that_stands_in_no_record_any_more_has_not_expired(
    alice: Any, second: Second, services: Services, clock: ManualClock, how: str
) -> None:
    """It ended so long ago that the directory knows nothing of it, or by an identity reset."""
    await alice.client.approve(second.request)
    told = end(services, second, how)
    clock.advance(15 * MINUTE)
    services.faults["GetKeyInfo"] = [token_refused("UNKNOWN_KEY")] * FOR_EVER
    await check_told(second.person, told)


async def test_a_good_key_is_not_given_up_for_another_while_the_directory_is_behind(
    alice: Any, second: Second, services: Services
) -> None:
    await alice.client.approve(second.request)
    invitation = (await alice.client.invite()).text
    services.faults["GetKeyInfo"] = [token_refused("UNKNOWN_KEY")] * 2  # the client asks again with another token
    with pytest.raises(InvalidArgumentError, match="recorded already"):
        await second.client.join(invitation)
    assert await second.client.joined() == second.client.address


async def test_a_key_that_is_good_has_not_expired_while_the_directory_is_behind(
    alice: Any, second: Second, services: Services, clock: ManualClock
) -> None:
    await alice.client.approve(second.request)
    clock.advance(15 * MINUTE)
    services.faults["GetKeyInfo"] = [token_refused("UNKNOWN_KEY")] * 4
    assert await second.client.joined() == second.client.address
    assert services.requests["Renew"], "the CA was not asked"
    assert second.person.reasons() == []


@pytest.mark.parametrize("how", ENDS)
async def test_a_record_that_shows_the_end_of_the_key_is_enough(
    alice: Any, second: Second, services: Services, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The directory admits by the record that it has, and answers with a newer one."""
    await alice.client.approve(second.request)
    told = end(services, second, how)

    async def admit(*_arguments: object) -> None:
        return None

    monkeypatch.setattr(services, "caller", admit)
    await check_told(second.person, told)
    assert services.requests["Renew"] == []


class Held:
    """A call that is held back before it is served.

    Attributes:
        asked: It has come.
        go_on: It is to be served.
    """

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, _context: Any) -> None:
        self.asked.set()
        await self.go_on.wait()


async def served(_context: Any) -> None:
    """Let a call pass, where a later one is to fail."""


async def test_a_directory_that_says_falsely_that_the_key_was_replaced_alarms_nobody(
    alice: Any, second: Second, services: Services
) -> None:
    """Neither before the device is approved nor after: the CA alone knows."""
    held = Held()
    services.faults["GetKeyInfo"] = [token_refused("KEY_SUPERSEDED")] * 4
    services.faults["Renew"] = [served, held]
    waiting = asyncio.create_task(second.client.joined())
    await held.asked.wait()
    await alice.client.approve(second.request)
    held.go_on.set()
    assert await waiting == second.client.address
    assert second.person.reasons() == []
    assert len(services.realm.users["alice"].keys) == 2, "asking recorded something"


async def test_a_device_that_renews_while_another_call_asks_is_no_thief(
    alice: Any, second: Second, services: Services
) -> None:
    await alice.client.approve(second.request)
    held = Held()
    services.faults["GetKeyInfo"] = [token_refused("KEY_SUPERSEDED")] * 2
    services.faults["BeginRenewal"] = [held]
    waiting = asyncio.create_task(second.client.joined())
    await held.asked.wait()
    await second.client.joined()
    await second.client.renew()
    held.go_on.set()
    assert await waiting == second.client.address
    assert second.person.reasons() == []
    await second.client.devices()


@pytest.mark.parametrize(
    ("code", "reason", "times"), [(UNAVAILABLE, "SHUTTING_DOWN", 12), (grpc.StatusCode.ABORTED, "REVISION_TAKEN", 2)]
)
async def test_a_ca_that_cannot_say_what_became_of_the_key_is_asked_again(
    alice: Any, second: Second, services: Services, code: grpc.StatusCode, reason: str, times: int
) -> None:
    await alice.client.approve(second.request)
    told = end(services, second, "renewed")
    services.faults["Renew"] = [failing(code, reason)] * times
    await check_told(second.person, told)


async def test_an_invitation_is_not_said_to_have_expired_before_the_ca_was_asked(
    alice: Any, open_client: Any, services: Services, clock: ManualClock
) -> None:
    person = await open_client("second", retries=IMPATIENT)
    request = await person.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    end(services, Second(person, "", request.text), "renewed")
    clock.advance(15 * MINUTE)
    services.faults["BeginRenewal"] = [failing(UNAVAILABLE, "SHUTTING_DOWN")] * FOR_EVER
    with pytest.raises(RefusedError, match="SHUTTING_DOWN"):
        await person.client.joined()
    services.faults["BeginRenewal"].clear()
    await check_told(person, DeviceKeyStolenError)


async def test_an_answer_that_does_not_show_the_device_is_not_believed(
    alice: Any, second: Second, services: Services
) -> None:
    services.realm.record = lambda _signed: None  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(KeyUnknownError):
        await alice.client.approve(second.request)


async def test_an_answer_that_shows_the_device_as_revoked_is_not_believed(
    alice: Any, second: Second, services: Services
) -> None:
    real = services.realm.record

    def revoked(signed: pb.SignedKeyRequest) -> Any:
        key = real(signed)
        services.realm.set_state(key, REVOKED, pb.REVOCATION_REASON_LOST)  # type: ignore[arg-type]
        return key

    services.realm.record = revoked  # type: ignore[method-assign]
    with pytest.raises(KeyUnknownError):
        await alice.client.approve(second.request)


async def test_a_directory_that_is_behind_the_ca_is_waited_for(alice: Any, services: Services) -> None:
    stale = services.realm.key_info("alice")
    services.realm.approve(alice.client._parts.identity.current)
    services.serve_key_info = lambda _name, _info: stale
    with pytest.raises(RecordBehindError):
        await alice.client.invite()


async def test_a_weak_key_invites_nobody(open_client: Any) -> None:
    carol = await open_client("carol", minimum_suite=WEAK)
    await carol.client.enroll("carol", suite=WEAK)
    with pytest.raises(EndorsementError, match="weak suite"):
        await carol.client.invite()


async def test_a_weak_key_is_not_approved(alice: Any, open_client: Any) -> None:
    weak = await open_client("weak", minimum_suite=WEAK)
    request = await weak.client.join((await alice.client.invite()).text, WEAK)
    with pytest.raises(SuiteRefusedError):
        await alice.client.approve(request.text)


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


async def test_a_key_that_is_due_is_renewed_before_it_invites(alice: Any, clock: ManualClock) -> None:
    clock.advance(61 * DAY)
    invitation = await alice.client.invite()
    assert invitation.parent_fingerprint == alice.client._parts.identity.current.fingerprint
    assert alice.numbers("renewal")


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


async def test_the_device_that_approves_is_told_no_news(alice: Any, second: Second) -> None:
    await approved(alice, second)
    await alice.client.devices()
    assert alice.reasons() == []


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
