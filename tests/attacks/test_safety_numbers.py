"""Somebody between Alice and Bob from the first contact on, or later: what people find out by comparing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR
from keypost.protocol.errors import IdentityChangedError, SafetyNumberDiffersError
from support.attacks import stopped_by

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.realm import User
    from support.simulation import Services


async def show_alice_another_bob(alice: Any, services: Services) -> User:
    """Have the CA show Alice a Bob of its own at first contact; return the true one."""
    realm = services.realm
    honest = realm.users.pop("bob")
    realm.enroll("bob")
    await alice.client.keys("bob")
    return honest


async def test_another_bob_from_the_first_contact_and_a_code_is_scanned(
    alice: Any, bob: Any, services: Services
) -> None:
    services.realm.users["bob"], shown = await show_alice_another_bob(alice, services), services.realm.users["bob"]
    on_his_screen = (await bob.client.safety_number("alice")).code
    services.realm.users["bob"] = shown
    with stopped_by(SafetyNumberDiffersError, "different keys of bob"):
        await alice.client.set_verified("bob", on_his_screen)
    assert not await alice.client.is_verified("bob")


async def test_another_bob_from_the_first_contact_and_digits_are_typed(
    alice: Any, bob: Any, services: Services
) -> None:
    services.realm.users["bob"], shown = await show_alice_another_bob(alice, services), services.realm.users["bob"]
    read_aloud = (await bob.client.safety_number("alice")).digits
    services.realm.users["bob"] = shown
    with stopped_by(SafetyNumberDiffersError, "numbers differ"):
        await alice.client.set_verified("bob", read_aloud)
    assert not await alice.client.is_verified("bob")


@pytest.mark.usefixtures("bob")
async def test_a_reset_of_who_was_verified_at_a_client_that_only_warns(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    alice = await open_client("alice", on_identity_change="warn")
    await alice.client.enroll("alice")
    await alice.client.set_verified("bob", (await alice.client.safety_number("bob")).digits)
    mallory = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]
