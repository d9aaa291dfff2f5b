"""What a directory or a CA could do to the single keys of a user's record: to the client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    GhostDeviceError,
    KeyRefusedError,
    MalformedStatementError,
    PossessionError,
    RecordRegressedError,
    TreeBrokenError,
)
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG, WEAK
from support.attacks import stopped_by
from support.clock import START
from support.lies import age, alter_key, answer, leave_out, publish, resigned
from support.realm import LIFETIME

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services

ENROLL = pb.KEY_REQUEST_KIND_ENROLL


async def test_a_revoked_device_is_made_good_again(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    laptop = realm.approve(realm.enroll("bob"))
    entered = clock()
    realm.revoke(laptop)
    await alice.client.send("bob", "my laptop was stolen, you say?")
    realm.set_state(laptop, pb.KEY_STATE_GOOD, since=entered)
    publish(realm, "bob")
    clock.advance(HOUR)
    with stopped_by(RecordRegressedError, "earlier state"):
        await alice.client.send("bob", "not for who has the laptop")
    assert not services.mailboxes[laptop.address]


async def test_a_device_revoked_long_ago_is_made_good_again(alice: Any, services: Services, clock: ManualClock) -> None:
    """It has left the record for the history, where keys have no state."""
    realm = services.realm
    laptop = realm.enroll("bob")
    realm.approve(laptop)
    realm.revoke(laptop)
    lost = realm.users["bob"].keys[0]
    clock.advance(realm.constants.retention)
    age(realm, laptop)
    await alice.client.send("bob", "you found your laptop?")
    good = replace(lost, state=pb.KEY_STATE_GOOD, state_time=lost.enter_time, reason=pb.REVOCATION_REASON_UNSPECIFIED)
    realm.users["bob"].history, realm.users["bob"].keys = (), (good, *realm.users["bob"].keys)
    publish(realm, "bob")
    clock.advance(HOUR)
    with stopped_by(RecordRegressedError, "came back"):
        await alice.client.send("bob", "not for who has the laptop")
    assert not services.mailboxes[laptop.address]


async def test_a_device_revoked_long_ago_vouches_for_another(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    laptop = realm.enroll("bob")
    realm.approve(laptop)
    realm.revoke(laptop)
    clock.advance(realm.constants.retention)
    age(realm, laptop)
    await alice.client.send("bob", "you found your laptop?")
    mallory = realm.approve(laptop)
    clock.advance(HOUR)
    with stopped_by(TreeBrokenError, "ended before"):
        await alice.client.send("bob", "not for who has the laptop")
    assert not services.mailboxes[mallory.address]


async def test_a_device_is_left_out(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    laptop = realm.approve(realm.enroll("bob"))
    await alice.client.send("bob", "to both")
    leave_out(realm, laptop)
    publish(realm, "bob")
    clock.advance(HOUR)
    with stopped_by(RecordRegressedError, "vanished"):
        await alice.client.send("bob", "to both again")


async def test_the_end_of_a_key_is_put_off(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    laptop = realm.approve(realm.enroll("bob"))
    realm.revoke(laptop)
    await alice.client.keys("bob")
    clock.advance(DAY)
    realm.revoke(laptop)
    with stopped_by(RecordRegressedError, "later"):
        await alice.client.keys("bob")


async def test_a_compromised_key_is_said_to_be_lost(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    laptop = realm.approve(realm.enroll("bob"))
    realm.revoke(laptop, pb.REVOCATION_REASON_COMPROMISED)
    await alice.client.keys("bob")
    realm.revoke(laptop, since=clock())
    with stopped_by(RecordRegressedError, "reason"):
        await alice.client.keys("bob")


async def test_a_key_gets_another_request_to_live_on(alice: Any, services: Services) -> None:
    realm = services.realm
    thiefs = realm.enroll("bob")
    await alice.client.keys("bob")
    later = realm.signed_request(thiefs, ENROLL, revision=1, expire_time=START + LIFETIME + DAY)
    realm.users["bob"].keys = ()
    realm.record(later)
    realm.users["bob"].revision = 2
    with stopped_by(RecordRegressedError, "another request"):
        await alice.client.keys("bob")


async def test_a_key_entered_earlier_than_was_said(alice: Any, services: Services, clock: ManualClock) -> None:
    """So it would not be void, though a compromised key vouched for it."""
    realm = services.realm
    phone = realm.enroll("bob")
    stolen_time = clock.advance(1)
    clock.advance(1)
    mallory = realm.approve(phone)
    await alice.client.keys("bob")
    alter_key(realm, mallory, state_time=stolen_time, enter_time=stolen_time)
    realm.revoke(phone, pb.REVOCATION_REASON_COMPROMISED, stolen_time)
    with stopped_by(RecordRegressedError, "another request"):
        await alice.client.keys("bob")


async def test_a_ghost_was_there_all_along(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    stolen = realm.enroll("bob")
    publish(realm, "bob")
    await alice.client.send("bob", "before")
    mallory = realm.approve(stolen, revision=2)
    publish(realm, "bob")
    clock.advance(HOUR)
    with pytest.raises(GhostDeviceError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_key_that_its_holder_never_asked_for(alice: Any, services: Services) -> None:
    """The CA would have Bob speak with the key of somebody else."""
    realm = services.realm
    realm.enroll("bob")
    statement = realm.statement("bob")
    statement.entries[0].request.possession = bytes(384)
    answer(services, "bob", resigned(realm, statement))
    with pytest.raises(PossessionError):
        await alice.client.keys("bob")


async def test_the_key_of_another_user_in_the_record(alice: Any, services: Services) -> None:
    realm = services.realm
    realm.enroll("bob")
    realm.enroll("mallory")
    statement = realm.statement("mallory")
    statement.username = "bob"
    answer(services, "bob", resigned(realm, statement))
    with stopped_by(MalformedStatementError, "another realm or user"):
        await alice.client.keys("bob")


async def test_a_small_key_that_is_called_strong(alice: Any, services: Services, generate: Any) -> None:
    realm = services.realm
    realm.enroll("bob")
    small = generate(WEAK)
    pair = DeviceKeyPair(realm.new_address("bob"), STRONG, small, public_key_der(small))
    entry = pb.KeyEntry(
        request=sign_possession(realm.request(pair, ENROLL, revision=1), pair),
        state=pb.KEY_STATE_GOOD,
        state_time=realm.clock(),
        enter_time=realm.clock(),
    )
    statement = realm.statement("bob")
    statement.entries[0].CopyFrom(entry)
    answer(services, "bob", resigned(realm, statement))
    with stopped_by(KeyRefusedError, "bits"):
        await alice.client.keys("bob")


async def test_one_key_under_two_fingerprints(alice: Any, services: Services) -> None:
    """What is known of the one, such as that it is compromised, would not be known of the other."""
    realm = services.realm
    pair = realm.enroll("bob")
    other = replace(pair, public_key_der=encoded_otherwise(pair.public_key_der))
    statement = realm.statement("bob")
    statement.entries[0].request.CopyFrom(sign_possession(realm.request(other, ENROLL, revision=1), other))
    answer(services, "bob", resigned(realm, statement))
    with stopped_by(KeyRefusedError, "canonical"):
        await alice.client.keys("bob")


def encoded_otherwise(public_key_der: bytes) -> bytes:
    """Return a key without the empty parameters of its algorithm: readers take it so, too."""
    usual, short = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d010101")
    inner = public_key_der[4:].replace(usual, short, 1)
    return public_key_der[:2] + len(inner).to_bytes(2, "big") + inner


async def test_a_replaced_key_stays_good_beside_its_successor(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    stolen = realm.enroll("bob")
    entered = clock()
    await alice.client.keys("bob")
    realm.renew(stolen)
    realm.set_state(stolen, pb.KEY_STATE_GOOD, since=entered)
    with stopped_by(MalformedStatementError, "one good key"):
        await alice.client.keys("bob")


async def test_a_key_stays_good_though_the_identity_was_reset(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    realm = services.realm
    stolen = realm.enroll("bob")
    entered = clock()
    realm.reset("bob")
    realm.set_state(stolen, pb.KEY_STATE_GOOD, since=entered)
    with stopped_by(MalformedStatementError, "epoch"):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[stolen.address]


async def test_a_key_that_lives_for_ever(alice: Any, services: Services, clock: ManualClock) -> None:
    services.realm.enroll("bob", expire_time=clock() + services.realm.constants.longest_key_lifetime + 1)
    with stopped_by(MalformedStatementError, "longer"):
        await alice.client.keys("bob")
