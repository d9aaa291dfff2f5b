"""Safety numbers, and the mark that they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR
from keypost.errors import InvalidArgumentError
from keypost.protocol.errors import IdentityChangedError, MalformedStatementError, SafetyNumberDiffersError
from keypost.protocol.safety_numbers import Identity, digits_of
from support.lies import admit_anybody

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


async def test_both_sides_see_the_same_number_and_code(alice: Any, bob: Any, services: Services) -> None:
    here, there = await alice.client.safety_number("bob"), await bob.client.safety_number("alice")
    assert (here.digits, here.code) == (there.digits, there.code)
    assert (here.username, here.verified, here.changed) == ("bob", False, False)
    assert here.grouped.replace(" ", "") == here.digits
    root = services.realm.users["bob"].keys[0].fingerprint
    assert here.digits.endswith(digits_of(alice.client.realm, Identity("bob", 1, root)))


async def test_the_own_number_has_half_the_digits(alice: Any, bob: Any) -> None:
    own = await alice.client.safety_number("alice")
    assert (await alice.client.safety_number("bob")).digits.startswith(own.digits)
    assert (await bob.client.safety_number("alice")).digits[:30] == own.digits


@pytest.mark.parametrize("shown", ["digits", "grouped", "code"])
async def test_what_matches_is_verified_and_stays_so(alice: Any, bob: Any, open_client: Any, shown: str) -> None:
    assert not await alice.client.is_verified("bob")
    await alice.client.set_verified("bob", getattr(await bob.client.safety_number("alice"), shown) + "\n")
    assert await alice.client.is_verified("bob")
    assert (await alice.client.safety_number("bob")).verified
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    assert await again.client.is_verified("bob")
    await again.client.set_unverified("bob")
    assert not await again.client.is_verified("bob")


async def test_nothing_else_is_verified(alice: Any, bob: Any) -> None:
    number = await bob.client.safety_number("alice")
    own = await alice.client.safety_number("alice")
    for other in (number.digits[:-1], number.digits[::-1], own.digits, own.code):
        with pytest.raises(SafetyNumberDiffersError):
            await alice.client.set_verified("bob", other)
    with pytest.raises(MalformedStatementError):
        await alice.client.set_verified("bob", number.code + "=")
    for argument in (None, b"1", "1" * 1_025):
        with pytest.raises(InvalidArgumentError) as raised:
            await alice.client.set_verified("bob", argument)
        assert raised.value.metadata["field"] == "compared"
    with pytest.raises(InvalidArgumentError):
        await alice.client.set_verified("alice", own.digits)
    assert not await alice.client.is_verified("bob")


async def test_the_mark_follows_an_unbroken_chain_silently(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    before = await alice.client.safety_number("bob")
    await alice.client.set_verified("bob", before.digits)
    await bob.client.renew()
    tablet = services.realm.approve(bob.client._parts.identity.current)
    services.realm.revoke(tablet)
    clock.advance(HOUR)
    await alice.client.keys("bob")
    after = await alice.client.safety_number("bob")
    assert after == await alice.client.safety_number("bob")
    assert (after.digits, after.verified) == (before.digits, True)
    assert alice.reasons() == []


async def test_a_message_says_whether_its_sender_is_verified(alice: Any, bob: Any) -> None:
    await bob.client.send("alice", "before")
    assert [message.verified for message in await alice.inbox()] == [False]
    await alice.client.set_verified("bob", (await alice.client.safety_number("bob")).digits)
    await bob.client.send("alice", "after")
    await bob.client.renew()
    await bob.client.send("alice", "after a renewal")
    assert [(message.text, message.verified) for message in await alice.inbox()] == [
        ("after", True),
        ("after a renewal", True),
    ]


async def test_a_changed_identity_has_another_number_and_takes_the_mark_with_it(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    before = await bob.client.safety_number("alice")
    await alice.client.set_verified("bob", before.digits)
    other = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError, match="that was verified changed"):
        await alice.client.send("bob", "for Bob alone")
    changed = await alice.client.safety_number("bob")
    assert (changed.verified, changed.changed) == (False, True)
    assert changed.digits != before.digits
    with pytest.raises(SafetyNumberDiffersError):
        await alice.client.set_verified("bob", before.digits)
    await alice.client.accept_identity("bob", other.fingerprint)
    assert alice.reasons("warning") == ["VERIFIED_LOST"]
    assert not await alice.client.is_verified("bob")
    assert not (await alice.client.safety_number("bob")).changed


@pytest.mark.usefixtures("bob")
async def test_to_verify_a_changed_identity_is_to_accept_it(alice: Any, services: Services, clock: ManualClock) -> None:
    await alice.client.send("bob", "before")
    other = services.realm.reset("bob")
    clock.advance(HOUR)
    await alice.client.set_verified("bob", (await alice.client.safety_number("bob")).code)
    assert await alice.client.is_verified("bob")
    await alice.client.send("bob", "to the new Bob")
    assert len(services.mailboxes[other.address]) == 1
    assert alice.reasons("warning") == []


@pytest.mark.usefixtures("bob")
async def test_a_lie_about_the_identity_that_passes_leaves_the_mark(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    """Else a directory could take the mark away by a lie of a moment, and nobody would notice the next one."""
    await alice.client.set_verified("bob", (await alice.client.safety_number("bob")).digits)
    honest = services.realm.users["bob"].keys
    services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError):
        await alice.client.keys("bob")
    services.realm.users["bob"].keys, services.realm.users["bob"].epoch = honest, 1
    await alice.client.send("bob", "as before")
    assert await alice.client.is_verified("bob")


@pytest.mark.usefixtures("bob")
async def test_a_message_of_an_earlier_identity_is_not_verified(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.keys("bob")
    earlier = services.realm.users["bob"].keys[0].fingerprint
    services.realm.reset("bob")
    clock.advance(HOUR)
    await alice.client.set_verified("bob", (await alice.client.safety_number("bob")).digits)
    pins = await alice.client._parts.records.pins("bob")
    assert pins.is_verified(services.realm.users["bob"].keys[-1].fingerprint)
    assert not pins.is_verified(earlier)
    assert not pins.is_verified(bytes(32))


@pytest.mark.usefixtures("bob")
async def test_to_warn_takes_an_identity_over_and_tells_it(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    alice = await open_client("alice", on_identity_change="warn")
    await alice.client.enroll("alice")
    await alice.client.send("bob", "before")
    other = services.realm.reset("bob")
    clock.advance(HOUR)
    await alice.client.send("bob", "to whoever is Bob now")
    assert len(services.mailboxes[other.address]) == 1
    told = [event for event in alice.events if event.kind == "error"]
    assert [event.reason for event in told] == ["IDENTITY_CHANGED"]
    assert told[0].facts == {"username": "bob", "root": other.fingerprint.hex()}
    assert [one.reason for one in await alice.client.evidence("bob")] == ["IDENTITY_CHANGED"]
    await alice.client.keys("bob")
    assert len(alice.events) == 1


@pytest.mark.usefixtures("bob")
async def test_to_warn_does_not_take_over_who_was_verified(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    alice = await open_client("alice", on_identity_change="warn")
    await alice.client.enroll("alice")
    await alice.client.set_verified("bob", (await alice.client.safety_number("bob")).digits)
    other = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[other.address]
    assert await alice.client.is_verified("bob")


async def test_to_warn_does_not_take_over_the_own_identity(open_client: Any, services: Services) -> None:
    alice = await open_client("alice", on_identity_change="warn")
    await alice.client.enroll("alice")
    services.realm.reset("alice")
    admit_anybody(services)
    with pytest.raises(IdentityChangedError):
        await alice.client.devices()


async def test_there_are_two_ways_to_meet_a_changed_identity(open_client: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        await open_client("alice", on_identity_change="ignore")
    assert raised.value.metadata["field"] == "on_identity_change"
