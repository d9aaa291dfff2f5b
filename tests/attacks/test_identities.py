"""Another identity in place of the one that is known, of the peer or of the own user: to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    DeviceKeyStolenError,
    IdentityChangedError,
    KeyUnknownError,
    SuiteRefusedError,
    TreeBrokenError,
)
from keypost.protocol.suites import WEAK
from support.attacks import check_told, stopped_by
from support.hostile import Peer
from support.lies import admit_anybody
from support.talk import text

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


@pytest.mark.usefixtures("bob")
async def test_a_reset_that_bob_never_asked_for(alice: Any, services: Services, clock: ManualClock) -> None:
    await alice.client.send("bob", "before")
    mallory = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]
    check_told(alice.reasons("error"), "IDENTITY_CHANGED")


@pytest.mark.usefixtures("bob")
async def test_a_reset_while_alice_was_away(
    alice: Any, services: Services, clock: ManualClock, open_client: Any
) -> None:
    await alice.client.send("bob", "before")
    await alice.client.close()
    mallory = services.realm.reset("bob")
    clock.advance(HOUR)
    again = await open_client("alice", bundle=None)
    with pytest.raises(IdentityChangedError):
        await again.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


@pytest.mark.usefixtures("bob")
async def test_another_identity_than_the_one_that_people_compared(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "before")
    compared = services.realm.reset("bob")
    mallory = services.realm.reset("bob")
    clock.advance(HOUR)
    with pytest.raises(IdentityChangedError):
        await alice.client.accept_identity("bob", compared.fingerprint)
    with pytest.raises(IdentityChangedError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_key_of_an_identity_that_was_never_accepted_speaks_for_bob(alice: Any, services: Services) -> None:
    """No tree of the present explains a key of an earlier epoch."""
    realm = services.realm
    realm.enroll("bob")
    realm.reset("bob")
    mallory = Peer(services, realm.new_pair(realm.new_address("bob")))
    realm.record(realm.signed_request(mallory.pair, pb.KEY_REQUEST_KIND_ENROLL, epoch=1))
    realm.revoke(mallory.pair)
    await mallory.put(alice.client.address, mallory.offer("alice"), text("it is me, Bob"))
    assert await alice.inbox() == []
    check_told(alice.reasons("waiting"), KeyUnknownError.reason)


async def test_a_weak_key_beside_a_strong_one(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    phone = realm.enroll("bob")
    await alice.client.send("bob", "before")
    broken = realm.approve(phone, WEAK)
    clock.advance(HOUR)
    with stopped_by(SuiteRefusedError, "minimum"):
        await alice.client.send("bob", "for who holds a strong key")
    assert not services.mailboxes[broken.address]


@pytest.mark.usefixtures("bob")
async def test_a_device_is_slipped_in_among_the_own_ones(alice: Any, services: Services) -> None:
    services.realm.enroll("alice")
    admit_anybody(services)
    with stopped_by(TreeBrokenError, "2 roots"):
        await alice.client.devices()


@pytest.mark.usefixtures("bob")
async def test_the_own_identity_is_reset(alice: Any, services: Services) -> None:
    await alice.client.send("bob", "before")
    services.realm.reset("alice")
    admit_anybody(services)
    with pytest.raises(IdentityChangedError):
        await alice.client.devices()


async def test_the_own_key_is_renewed_by_a_thief(alice: Any, bob: Any, services: Services) -> None:
    services.realm.renew(alice.client._parts.identity.current)
    admit_anybody(services)
    with pytest.raises(DeviceKeyStolenError):
        await alice.client.devices()
    for call in (alice.client.send("bob", "x"), alice.client.renew(), alice.client.keys("bob"), alice.inbox()):
        with pytest.raises(DeviceKeyStolenError):
            await call
    assert not services.mailboxes[bob.client.address]


async def test_the_own_key_is_renewed_by_a_thief_and_the_successor_revoked(alice: Any, services: Services) -> None:
    services.realm.revoke(services.realm.renew(alice.client._parts.identity.current))
    admit_anybody(services)
    with pytest.raises(DeviceKeyStolenError):
        await alice.client.devices()


async def test_the_thief_of_the_own_key_waits_for_a_restart(
    alice: Any, bob: Any, services: Services, open_client: Any
) -> None:
    await alice.client.send("bob", "before")
    honest = services.realm.users["alice"].keys
    services.realm.renew(alice.client._parts.identity.current)
    admit_anybody(services)
    with pytest.raises(DeviceKeyStolenError):
        await alice.client.devices()
    await alice.client.close()
    services.realm.users["alice"].keys = honest
    services.realm.users["alice"].revision = 1
    again = await open_client("alice", bundle=None)
    with pytest.raises(DeviceKeyStolenError):
        await again.client.send("bob", "as if nothing had been")
    assert len(services.mailboxes[bob.client.address]) == 1


async def test_alice_is_shown_a_device_that_is_not_bobs(alice: Any, bob: Any, services: Services) -> None:
    """The CA has Bob's stolen key approve a device that it shows to Alice alone."""
    realm = services.realm
    before = realm.users["bob"].keys
    mallory = realm.approve(bob.client._parts.identity.current)
    await alice.client.send("bob", "for Bob alone, she thinks")
    realm.users["bob"].keys = before
    assert [message.text for message in await bob.inbox()] == ["for Bob alone, she thinks"]
    assert len(services.mailboxes[mallory.address]) == 1
    check_told(bob.reasons("warning"), "DEVICES_DIFFER")


async def test_a_device_of_bobs_is_hidden_from_alice(alice: Any, bob: Any, services: Services) -> None:
    realm = services.realm
    realm.approve(bob.client._parts.identity.current)
    both = realm.users["bob"].keys
    realm.users["bob"].keys = both[:1]
    await alice.client.send("bob", "to one device alone")
    realm.users["bob"].keys = both
    assert [message.text for message in await bob.inbox()] == ["to one device alone"]
    check_told(bob.reasons("warning"), "DEVICES_DIFFER")
