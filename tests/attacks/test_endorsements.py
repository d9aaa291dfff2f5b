"""How a CA could slip in a device, alone or with the holder of a key that was stolen: to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, HOUR, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    EndorsementError,
    EquivocationError,
    ForkDetectedError,
    NoUsableDeviceError,
    TreeBrokenError,
)
from keypost.protocol.key_requests import read_key_request
from keypost.protocol.suites import STRONG, WEAK
from support.attacks import stopped_by
from support.clock import START
from support.lies import age, claim_endorsement, leave_out, new_constants
from support.realm import LIFETIME

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

APPROVE, RENEW = pb.KEY_REQUEST_KIND_APPROVE, pb.KEY_REQUEST_KIND_RENEW


async def test_a_device_that_nobody_vouches_for(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    realm.enroll("bob")
    await alice.client.send("bob", "before")
    mallory = realm.enroll("bob")
    clock.advance(HOUR)
    with stopped_by(TreeBrokenError, "2 roots"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


@pytest.mark.parametrize("kind", [APPROVE, RENEW], ids=["approval", "renewal"])
async def test_an_endorsement_that_is_forged(alice: Any, services: Services, clock: ManualClock, kind: Any) -> None:
    realm = services.realm
    phone = realm.enroll("bob")
    await alice.client.send("bob", "before")
    mallory = realm.new_pair(phone.address if kind == RENEW else realm.new_address("bob"))
    if kind == RENEW:
        realm.set_state(phone, pb.KEY_STATE_SUPERSEDED)
    claim_endorsement(realm, mallory, phone, kind)
    clock.advance(HOUR)
    with stopped_by(EndorsementError, "not signed by its parent"):
        await alice.client.send("bob", "for Bob alone")


async def test_a_stolen_key_renews_onto_a_device_of_the_thief(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    stolen = realm.enroll("bob")
    await alice.client.send("bob", "before")
    mallory = realm.new_pair(realm.new_address("bob"))
    realm.set_state(stolen, pb.KEY_STATE_SUPERSEDED)
    realm.record(realm.signed_request(mallory, RENEW, stolen))
    clock.advance(HOUR)
    with stopped_by(EndorsementError, "own device"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_weak_key_that_was_broken_approves_a_device(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    lenient = await open_client("carol", minimum_suite=WEAK)
    await lenient.client.enroll("carol")
    realm = services.realm
    broken = realm.enroll("bob", WEAK)
    await lenient.client.send("bob", "before")
    mallory = realm.approve(broken)
    clock.advance(HOUR)
    with stopped_by(EndorsementError, "strong key"):
        await lenient.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_weak_key_that_was_broken_renews_to_a_strong_one(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    broken = realm.approve(realm.enroll("bob"), WEAK)
    realm.set_state(broken, pb.KEY_STATE_SUPERSEDED)
    mallory = realm.new_pair(broken.address, STRONG)
    realm.record(realm.signed_request(mallory, RENEW, broken))
    clock.advance(HOUR)
    with stopped_by(TreeBrokenError, "2 roots"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_second_successor(alice: Any, services: Services) -> None:
    """Whoever has Bob's old key renews it again, with the CA's help, once the true successor is out of the way."""
    realm = services.realm
    stolen = realm.enroll("bob")
    realm.revoke(realm.renew(stolen))
    mallory = realm.new_pair(stolen.address)
    realm.record(realm.signed_request(mallory, RENEW, stolen))
    with pytest.raises(ForkDetectedError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_second_successor_after_the_first_left_the_record(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    new_constants(services, retention=HOUR)
    clock.advance(HOUR)
    realm = services.realm
    stolen = realm.enroll("bob")
    first = realm.renew(stolen)
    second = realm.renew(first)
    await alice.client.keys("bob")
    clock.advance(HOUR)
    age(realm, stolen, first)
    realm.revoke(second)
    await alice.client.keys("bob")
    clock.advance(HOUR)
    leave_out(realm, second)
    realm.users["bob"].history = realm.users["bob"].history[:1]
    mallory = realm.new_pair(stolen.address)
    realm.record(realm.signed_request(mallory, RENEW, stolen))
    with stopped_by(TreeBrokenError, "ended before"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_the_request_of_a_key_is_exchanged_in_the_history(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    """Then a key that has expired could have vouched for others."""
    new_constants(services, retention=HOUR)
    clock.advance(HOUR)
    realm = services.realm
    stolen = realm.enroll("bob")
    realm.renew(stolen)
    await alice.client.keys("bob")
    clock.advance(HOUR)
    age(realm, stolen)
    await alice.client.keys("bob")
    longer = realm.signed_request(stolen, pb.KEY_REQUEST_KIND_ENROLL, revision=1, expire_time=START + LIFETIME * 2)
    realm.users["bob"].history = (read_key_request(longer),)
    # Alice names a key, and would be shown no history that entered before it.
    services.serve_key_info = lambda name, _: realm.key_info(name)
    with pytest.raises(EquivocationError):
        await alice.client.keys("bob")


async def test_a_replaced_key_approves_a_device(alice: Any, services: Services) -> None:
    """At the moment of its replacement, so that times do not tell."""
    realm = services.realm
    stolen = realm.enroll("bob")
    realm.renew(stolen)
    mallory = realm.approve(stolen)
    with stopped_by(EndorsementError, "after it had been replaced"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_revoked_key_approves_a_device(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    stolen = realm.approve(realm.enroll("bob"))
    realm.revoke(stolen)
    clock.advance(1)
    mallory = realm.approve(stolen)
    with stopped_by(EndorsementError, "ended"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_key_that_was_seen_to_end_approves_a_device(alice: Any, services: Services, clock: ManualClock) -> None:
    """The CA dates the approval to the moment of the revocation, of which Alice knows."""
    realm = services.realm
    stolen = realm.approve(realm.enroll("bob"))
    realm.revoke(stolen)
    await alice.client.send("bob", "before")
    mallory = realm.approve(stolen)
    clock.advance(HOUR)
    with stopped_by(TreeBrokenError, "ended before"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_an_expired_key_approves_a_device(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    stolen = realm.enroll("bob", expire_time=clock() + MINUTE)
    clock.advance(MINUTE)
    mallory = realm.approve(stolen)
    with stopped_by(EndorsementError, "expired"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_key_renews_after_its_renewal_window(alice: Any, services: Services, clock: ManualClock) -> None:
    new_constants(services, renewal_window=MINUTE)
    realm = services.realm
    stolen = realm.enroll("bob", expire_time=clock() + MINUTE)
    clock.advance(HOUR)
    realm.renew(stolen)
    with stopped_by(EndorsementError, "window"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[stolen.address]


async def test_a_compromised_key_approved_a_device(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    stolen = realm.enroll("bob")
    stolen_time = clock.advance(DAY)
    clock.advance(1)
    mallory = realm.approve(stolen)
    descendant = realm.approve(mallory)
    await alice.client.send("bob", "nobody has noticed yet")
    realm.revoke(stolen, pb.REVOCATION_REASON_COMPROMISED, stolen_time)
    clock.advance(HOUR)
    with pytest.raises(NoUsableDeviceError):
        await alice.client.send("bob", "for Bob alone")
    assert [len(services.mailboxes[pair.address]) for pair in (mallory, descendant)] == [1, 1]
