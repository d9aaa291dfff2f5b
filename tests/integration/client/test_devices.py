"""Several devices of one user against the three services: approved, revoked, in a race, with messages under way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost import Client
from keypost.errors import RefusedError
from keypost.protocol.errors import EndorsementError, KeyRevokedError
from keypost.transport.retries import Backoff, Retries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from keypost_services.embedded.stack import Stack

LONG = 60
QUICK = Retries(backoff=Backoff(first=0.01, longest=0.1))


class Devices:
    """Opens further devices of a user."""

    def __init__(self, stack: Stack, folder: Path, unlock: Any) -> None:
        self._stack, self._folder, self._unlock = stack, folder, unlock
        self.open: list[Client] = []

    async def profile(self, name: str, **options: Any) -> Client:
        bundle = self._stack.layout.bundle
        opened = await Client.open(self._folder / name, unlock=self._unlock, bundle=bundle, retries=QUICK, **options)
        self.open.append(opened)
        return opened

    async def join(self, inviting: Client, name: str) -> Client:
        device = await self.profile(name)
        await inviting.approve((await device.join((await inviting.invite()).text)).text)
        await device.joined()
        return device


@pytest.fixture
async def devices(stack: Stack, tmp_path: Path, unlock: Any) -> AsyncIterator[Devices]:
    found = Devices(stack, tmp_path, unlock)
    yield found
    for client in found.open:
        await client.close()


def device_of(client: Client) -> str:
    assert client.address is not None
    return client.address.device_id


async def texts(client: Client) -> list[str]:
    """Return what came from others; copies of what other own devices sent come when they come."""
    return [message.text async for message in client.receive(follow=False) if message.copy_to is None]


async def test_a_sender_follows_the_devices_of_a_user_by_itself(enrolled: Any, devices: Devices) -> None:
    async with asyncio.timeout(LONG):
        cleo, dora = await enrolled("cleo"), await enrolled("dora")
        await dora.send("cleo", "before")
        phone = await devices.join(cleo, "cleos-phone")
        await dora.send("cleo", "to both")
        await cleo.revoke(device_of(phone), "lost")
        sent = await dora.send("cleo", "to the good one")
        assert sent.new_session
        assert await texts(cleo) == ["before", "to both", "to the good one"]
        with pytest.raises(KeyRevokedError):
            await texts(phone)


async def test_a_device_that_waits_for_messages_is_cut_off_while_it_waits(enrolled: Any, devices: Devices) -> None:
    async with asyncio.timeout(LONG):
        cleo, dora = await enrolled("cleo-2"), await enrolled("dora-2")
        phone = await devices.join(cleo, "cleos-phone")
        await dora.send("cleo-2", "in time")
        stream = phone.receive()
        assert (await anext(stream)).text == "in time"
        waiting = asyncio.ensure_future(anext(stream))
        await cleo.revoke(device_of(phone), "compromised")
        with pytest.raises(KeyRevokedError, match="stays readable"):
            await waiting


async def test_an_answer_from_a_further_device_goes_on_in_the_same_conversation(
    enrolled: Any, devices: Devices
) -> None:
    async with asyncio.timeout(LONG):
        cleo, dora = await enrolled("cleo-3"), await enrolled("dora-3")
        phone = await devices.join(cleo, "cleos-phone")
        await phone.send("dora-3", "from the phone")
        await cleo.send("dora-3", "from the laptop")
        assert sorted(await texts(dora)) == ["from the laptop", "from the phone"]
        await dora.send("cleo-3", "to you both")
        assert await texts(phone) == await texts(cleo) == ["to you both"]


async def test_of_two_approvals_at_once_one_wins_and_the_other_invites_anew(enrolled: Any, devices: Devices) -> None:
    async with asyncio.timeout(LONG):
        cleo = await enrolled("cleo-4")
        phone = await devices.join(cleo, "cleos-phone")
        asked = []
        for inviting, name in ((cleo, "one"), (phone, "other")):
            device = await devices.profile(name)
            asked.append((inviting, device, await device.join((await inviting.invite()).text)))
        outcomes = await asyncio.gather(
            *(inviting.approve(request.text) for inviting, _, request in asked), return_exceptions=True
        )
        [lost] = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
        assert isinstance(outcomes[lost], RefusedError | EndorsementError)
        inviting, device, _ = asked[lost]
        await inviting.approve((await device.join((await inviting.invite()).text)).text)
        for _, joining, _ in asked:
            await joining.joined()
        assert len([key for key in (await cleo.devices()).keys if key.is_good]) == 4


async def test_a_device_that_was_off_while_it_was_approved_starts_as_one(enrolled: Any, devices: Devices) -> None:
    async with asyncio.timeout(LONG):
        cleo = await enrolled("cleo-5")
        phone = await devices.profile("phone")
        request = await phone.join((await cleo.invite()).text)
        await phone.close()
        key = await cleo.approve(request.text)
        assert await cleo.approve(request.text) == key, "and once more changes nothing"
        again = await devices.profile("phone")
        assert again.address == request.address
        assert (await again.safety_number("cleo-5")).digits == (await cleo.safety_number("cleo-5")).digits


async def test_a_compromised_device_takes_with_it_what_it_approved(enrolled: Any, devices: Devices) -> None:
    async with asyncio.timeout(LONG):
        cleo, dora = await enrolled("cleo-6"), await enrolled("dora-6")
        phone = await devices.join(cleo, "phone")
        thief = await devices.join(phone, "thief")
        since = (await cleo.devices()).get(thief._parts.identity.current.fingerprint).enter_time - 1
        record = await cleo.revoke(device_of(phone), "compromised", since=since)
        assert [key.address for key in record.keys if key.is_good] == [cleo.address]
        await dora.send("cleo-6", "for Cleo alone")
        assert await texts(cleo) == ["for Cleo alone"]
        for ended in (phone, thief):
            with pytest.raises(KeyRevokedError):
                await ended.keys("dora-6")
