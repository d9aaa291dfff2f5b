"""Two changes of one user's keys at once: one wins, the other gets ABORTED and recovers."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import RefusedError
from keypost.protocol.suites import STRONG
from support.interleaving import PATIENCE, RenewalUnderWay, before_call
from support.racing import NamedPerson, alarms_of

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
async def two_devices(open_person: Any) -> tuple[NamedPerson, NamedPerson]:
    """Two devices of one user."""
    name = f"ann-{secrets.token_hex(4)}"
    first, second = await open_person(name), await open_person(f"{name}-second")
    second.name = name
    await first.client.enroll(name, suite=STRONG)
    await approve(first, second)
    return first, second


async def approve(first: NamedPerson, second: NamedPerson) -> None:
    invitation = await first.client.invite()
    request = await second.client.join(invitation.text)
    await first.client.approve(request.text)
    await second.client.joined()


async def check_works(open_person: Any, *devices: NamedPerson) -> None:
    """Somebody writes once, and every device gets it; every device can write; nobody was alarmed."""
    other = await open_person(f"ben-{secrets.token_hex(4)}")
    await other.client.enroll(other.name, suite=STRONG)
    await other.client.send(devices[0].name, "hello")
    for device in devices:
        received = await device.inbox()
        assert [message.text for message in received if message.copy_to is None] == ["hello"]
        assert {message.copy_to for message in received} <= {None, other.name}
        await device.client.send(other.name, "hello yourself")
    assert [message.text for message in await other.inbox()] == ["hello yourself"] * len(devices)
    assert alarms_of(other) == [alarm for device in devices for alarm in alarms_of(device)] == []


def counted(person: NamedPerson, method: str) -> Callable[[], int]:
    """Count how often a client calls a method of the CA from now on."""
    ca, calls = person.client._parts.renewing._ca, 0
    call = getattr(ca, method)

    async def count(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return await call(*args)

    setattr(ca, method, count)
    return lambda: calls


async def test_two_devices_renew_at_once(open_person: Any, two_devices: tuple[NamedPerson, NamedPerson]) -> None:
    first, second = two_devices
    begun, refusals = counted(second, "begin_renewal"), refusals_of(second)
    async with asyncio.timeout(PATIENCE):
        winner, loser = RenewalUnderWay(first.client), RenewalUnderWay(second.client)
        await winner.begin()
        await loser.begin()
        assert begun() == 1
        await winner.finish()
        await loser.finish()
        assert (begun(), refusals) == (2, ["REVISION_TAKEN"]), "the loser begins anew, once"
        record = await first.client.devices()
        assert len(record.good_keys(record.this_update)) == 2
        await check_works(open_person, first, second)


def refusals_of(person: NamedPerson) -> list[str]:
    """Note from now on what the CA refuses a client to renew."""
    ca, refusals = person.client._parts.renewing._ca, list[str]()
    renew = ca.renew

    async def note(*args: Any) -> Any:
        try:
            return await renew(*args)
        except RefusedError as refused:
            refusals.append(refused.reason)
            raise

    ca.renew = note  # type: ignore[method-assign,assignment]  # for this one client
    return refusals


async def test_a_device_is_approved_while_the_approver_renews(
    open_person: Any, two_devices: tuple[NamedPerson, NamedPerson]
) -> None:
    """The invitation names a key and a revision that are no longer the newest: it has to be made anew."""
    first, second = two_devices
    third = await open_person(f"{first.name}-third")
    third.name = first.name
    renewal = RenewalUnderWay(first.client)
    async with asyncio.timeout(PATIENCE):
        invitation = await first.client.invite()
        request = await third.client.join(invitation.text)
        await renewal.begin()
        approving = before_call(first.client._parts.approving._ca, "approve", renewal.record)
        with approving, pytest.raises(RefusedError) as refused:
            await first.client.approve(request.text)
        assert refused.value.reason in {"REVISION_TAKEN", "KEY_REPLACED"}
        await renewal.finish()
        await approve(first, third)
        await check_works(open_person, first, second, third)


async def test_a_device_renews_while_it_is_revoked(
    open_person: Any, two_devices: tuple[NamedPerson, NamedPerson]
) -> None:
    """Whichever comes first: a revoked device gets no new key."""
    first, second = two_devices
    assert second.client.address is not None
    revoked = second.client.address.device_id

    async def revoke() -> None:
        await first.client.revoke(revoked, "lost")

    async with asyncio.timeout(PATIENCE):
        with before_call(second.client._parts.renewing._ca, "renew", revoke), pytest.raises(Exception, match="revoked"):
            await second.client.renew()
        record = await first.client.devices()
        assert [key.address for key in record.good_keys(record.this_update)] == [first.client.address]
        await check_works(open_person, first)
