"""An answer of the CA that gets lost, at each point of enrolment and renewal; and a thief who is there first."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import RefusedError, UnreachableError
from keypost.protocol.errors import DeviceKeyStolenError, KeyRevokedError
from keypost.protocol.suites import STRONG, WEAK
from support.interleaving import PATIENCE, RenewalUnderWay
from support.racing import ANSWER, REQUEST, NamedPerson, alarms_of, lost, served_at_last

if TYPE_CHECKING:
    from pathlib import Path

ENROLMENT = [("begin_enrollment", REQUEST), ("begin_enrollment", ANSWER), ("enroll", REQUEST), ("enroll", ANSWER)]
RENEWAL = [("begin_renewal", REQUEST), ("begin_renewal", ANSWER), ("renew", REQUEST), ("renew", ANSWER)]
AFTERWARDS = ["the same client", "after a crash"]


@pytest.fixture
def name() -> str:
    return f"ann-{secrets.token_hex(4)}"


async def enrolled(open_person: Any, name: str) -> NamedPerson:
    person: NamedPerson = await open_person(name)
    await person.client.enroll(name, suite=WEAK)
    return person


async def reopened(open_person: Any, person: NamedPerson, afterwards: str) -> NamedPerson:
    """Return the person as before, or with a client that knows only what is on the disk."""
    if afterwards == AFTERWARDS[0]:
        return person
    await person.client.close()
    again: NamedPerson = await open_person(person.name)
    return again


async def stolen(open_person: Any, person: NamedPerson, tmp_path: Path) -> tuple[NamedPerson, NamedPerson]:
    """Return the owner, and a thief with a copy of the whole profile."""
    await person.client.close()
    shutil.copytree(tmp_path / person.name, tmp_path / "thief")
    return await open_person(person.name), await open_person("thief")


async def overtaken(
    open_person: Any, owner: NamedPerson, tmp_path: Path, method: str, what: str, afterwards: str
) -> NamedPerson:
    """Return a thief who copied the profile of an owner whose enrolment was lost, and who has enrolled by it.

    The owner's client is the same as before, or closed.
    """
    with lost(owner.client._parts.enrolling._ca, method, what), pytest.raises(UnreachableError):
        await owner.client.enroll(owner.name, suite=WEAK)
    if afterwards != AFTERWARDS[0]:
        await owner.client.close()
    shutil.copytree(tmp_path / owner.name, tmp_path / "thief")
    thief: NamedPerson = await open_person("thief")
    await thief.client.enroll(owner.name, suite=WEAK)
    return thief


async def known_at_last(person: NamedPerson) -> None:
    """Wait until the directory serves a person for whom it was asked before they were enrolled.

    That there is no such user it remembers until the key event comes, or for seconds if its watch has only begun.
    """
    await served_at_last(lambda: person.client.keys(person.name))


async def check_works(open_person: Any, person: NamedPerson) -> None:
    """Write to somebody and get an answer; nobody was alarmed, and there is one good key."""
    other = await enrolled(open_person, f"ben-{secrets.token_hex(4)}")
    await person.client.send(other.name, "hello")
    assert [message.text for message in await other.inbox()] == ["hello"]
    await other.client.send(person.name, "hello yourself")
    assert [message.text for message in await person.inbox()] == ["hello yourself"]
    assert len([key for key in (await person.client.devices()).keys if key.is_good]) == 1
    assert alarms_of(person) == alarms_of(other) == []


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("method", "what"), ENROLMENT)
async def test_an_enrolment_recovers(open_person: Any, name: str, method: str, what: str, afterwards: str) -> None:
    person = await open_person(name)
    async with asyncio.timeout(PATIENCE):
        with lost(person.client._parts.enrolling._ca, method, what), pytest.raises(UnreachableError):
            await person.client.enroll(name, suite=WEAK)
        person = await reopened(open_person, person, afterwards)
        await person.client.enroll(name, suite=WEAK)
        await known_at_last(person)
        await check_works(open_person, person)


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("method", "what"), RENEWAL)
async def test_a_renewal_recovers(open_person: Any, name: str, method: str, what: str, afterwards: str) -> None:
    person = await enrolled(open_person, name)
    old = person.client._parts.identity.current
    async with asyncio.timeout(PATIENCE):
        with lost(person.client._parts.renewing._ca, method, what), pytest.raises(UnreachableError):
            await person.client.renew()
        person = await reopened(open_person, person, afterwards)
        if person.client._parts.identity.current.fingerprint == old.fingerprint:
            # After a crash, opening the profile has finished what the CA had recorded.
            await person.client.renew()
        assert person.client._parts.identity.current.fingerprint != old.fingerprint
        assert len((await person.client.devices()).keys) == 2, "what the CA had recorded was asked for again"
        await check_works(open_person, person)


async def test_a_renewal_whose_answer_was_lost_is_noticed_by_the_next_message(open_person: Any, name: str) -> None:
    person = await enrolled(open_person, name)
    async with asyncio.timeout(PATIENCE):
        with lost(person.client._parts.renewing._ca, "renew", ANSWER), pytest.raises(UnreachableError):
            await person.client.renew()
        await check_works(open_person, person)
        assert person.client._parts.identity.ring.pending is None


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("method", "what"), RENEWAL[:-1])
async def test_a_thief_renews_first(
    open_person: Any, name: str, tmp_path: Path, method: str, what: str, afterwards: str
) -> None:
    owner, thief = await stolen(open_person, await enrolled(open_person, name), tmp_path)
    async with asyncio.timeout(PATIENCE):
        with lost(owner.client._parts.renewing._ca, method, what), pytest.raises(UnreachableError):
            await owner.client.renew()
        await thief.client.renew()
        owner = await reopened(open_person, owner, afterwards)
        for call in (owner.client.renew, owner.client.devices, owner.inbox):
            with pytest.raises(DeviceKeyStolenError):
                await call()
        owner = await reopened(open_person, owner, AFTERWARDS[1])
        with pytest.raises(DeviceKeyStolenError):
            await owner.client.send("ben", "hello")


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("method", "what"), ENROLMENT[2:])
async def test_a_thief_enrols_and_renews_first(
    open_person: Any, name: str, tmp_path: Path, method: str, what: str, afterwards: str
) -> None:
    owner = await open_person(name)
    async with asyncio.timeout(PATIENCE):
        thief = await overtaken(open_person, owner, tmp_path, method, what, afterwards)
        await thief.client.renew()
        owner = await reopened(open_person, owner, afterwards)
        for _ in AFTERWARDS:
            with pytest.raises(DeviceKeyStolenError):
                await owner.client.enroll(name, suite=WEAK)
        for call in (owner.client.renew, owner.client.devices, owner.inbox):
            with pytest.raises(DeviceKeyStolenError):
                await call()
        assert alarms_of(owner) == ["DEVICE_KEY_STOLEN"]
        owner = await reopened(open_person, owner, AFTERWARDS[1])
        with pytest.raises(DeviceKeyStolenError):
            await owner.client.enroll(name, suite=WEAK)
        with pytest.raises(DeviceKeyStolenError):
            await owner.client.send("ben", "hello")


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("method", "what"), ENROLMENT[2:])
async def test_a_thief_enrols_first_and_renews_too_late(
    open_person: Any, name: str, tmp_path: Path, method: str, what: str, afterwards: str
) -> None:
    """As long as both have the same key, nothing tells them apart; the first to renew is the device."""
    owner = await open_person(name)
    async with asyncio.timeout(PATIENCE):
        thief = await overtaken(open_person, owner, tmp_path, method, what, afterwards)
        owner = await reopened(open_person, owner, afterwards)
        await owner.client.enroll(name, suite=WEAK)
        await owner.client.renew()
        with pytest.raises(DeviceKeyStolenError):
            await thief.client.renew()
        await known_at_last(owner)
        await check_works(open_person, owner)


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize(("method", "what"), ENROLMENT[:2])
async def test_a_thief_finds_no_key_yet(
    open_person: Any, name: str, tmp_path: Path, method: str, what: str, afterwards: str
) -> None:
    """There was nothing to steal: whoever signs in first is the user, and the other needs an approval."""
    owner = await open_person(name)
    async with asyncio.timeout(PATIENCE):
        thief = await overtaken(open_person, owner, tmp_path, method, what, afterwards)
        await thief.client.renew()
        owner = await reopened(open_person, owner, afterwards)
        with pytest.raises(RefusedError, match="APPROVAL_REQUIRED"):
            await owner.client.enroll(name, suite=WEAK)
        assert alarms_of(owner) == []


@pytest.mark.parametrize("end", ["renewed", "revoked"])
async def test_the_key_of_a_device_that_joins_ends_before_it_is_told_of_the_approval(
    open_person: Any, name: str, tmp_path: Path, end: str
) -> None:
    first, owner = await open_person(name), await open_person("further")
    async with asyncio.timeout(PATIENCE):
        await first.client.enroll(name, suite=STRONG)
        request = await owner.client.join((await first.client.invite()).text, STRONG)
        await owner.client.close()
        shutil.copytree(tmp_path / "further", tmp_path / "thief")
        await first.client.approve(request.text)
        if end == "renewed":
            thief = await open_person("thief")
            await thief.client.joined()
            await thief.client.renew()
        else:
            await first.client.revoke(request.address.device_id, "lost")
        owner = await open_person("further")
        for _ in AFTERWARDS:
            with pytest.raises(DeviceKeyStolenError if end == "renewed" else KeyRevokedError):
                await owner.client.joined()
        assert alarms_of(owner) == (["DEVICE_KEY_STOLEN"] if end == "renewed" else [])


async def test_a_thief_comes_too_late(open_person: Any, name: str, tmp_path: Path) -> None:
    """The owner's renewal was recorded, only its answer was lost: the thief's copy is the one that stops."""
    owner, thief = await stolen(open_person, await enrolled(open_person, name), tmp_path)
    async with asyncio.timeout(PATIENCE):
        with lost(owner.client._parts.renewing._ca, "renew", ANSWER), pytest.raises(UnreachableError):
            await owner.client.renew()
        with pytest.raises(DeviceKeyStolenError):
            await thief.client.renew()
        await owner.client.renew()
        await check_works(open_person, owner)


async def test_owner_and_thief_renew_at_once(open_person: Any, name: str, tmp_path: Path) -> None:
    """Both have begun with the same revision; one wins, and the other knows that something is wrong."""
    owner, thief = await stolen(open_person, await enrolled(open_person, name), tmp_path)
    async with asyncio.timeout(PATIENCE):
        first, second = RenewalUnderWay(owner.client), RenewalUnderWay(thief.client)
        await first.begin()
        await second.begin()
        await first.finish()
        with pytest.raises(DeviceKeyStolenError):
            await second.finish()
        await check_works(open_person, owner)
