"""A first key that ended, or is good, before its device knew that it was recorded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.clock import MINUTE
from keypost.errors import InvalidArgumentError, RefusedError
from keypost.protocol.errors import DeviceKeyStolenError, KeyRevokedError
from support.interleaving import PATIENCE
from support.people import FOR_EVER, IMPATIENT
from support.second_device import Second
from support.simulation import failing

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.people import Person
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def token_refused(cause: str) -> Any:
    return failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause=cause)


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
