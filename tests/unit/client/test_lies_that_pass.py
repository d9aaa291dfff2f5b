"""Whatever lie is told of Bob: Alice does not send, is told, keeps what proves it, and goes on when it passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import ProtocolError
from keypost.protocol.key_info import SUPERSEDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.key_requests import DeviceKeyPair
    from support.clock import ManualClock
    from support.realm import SimulatedRealm
    from support.simulation import Services

APPROVE, NO_REASON = pb.KEY_REQUEST_KIND_APPROVE, pb.REVOCATION_REASON_UNSPECIFIED


def a_key_that_nobody_vouches_for(realm: SimulatedRealm, _: DeviceKeyPair) -> None:
    realm.enroll("bob")


def a_device_by_a_forged_word(realm: SimulatedRealm, phone: DeviceKeyPair) -> None:
    mallory = realm.new_pair(realm.new_address("bob"))
    forged = realm.signed_request(mallory, APPROVE, mallory, parent_fingerprint=phone.fingerprint)
    realm.record(forged)


def a_device_by_a_word_for_another(realm: SimulatedRealm, phone: DeviceKeyPair) -> None:
    other = realm.signed_request(realm.new_pair(realm.new_address("bob")), APPROVE, phone)
    mallory = realm.new_pair(realm.new_address("bob"))
    moved = realm.signed_request(mallory, APPROVE, mallory, parent_fingerprint=phone.fingerprint)
    moved.endorsement = other.endorsement
    realm.record(moved)


def a_ghost_that_was_always_there(realm: SimulatedRealm, phone: DeviceKeyPair) -> None:
    user = realm.users["bob"]
    revision = user.revision
    # At the third revision a device was revoked: no key entered.
    realm.record(realm.signed_request(realm.new_pair(realm.new_address("bob")), APPROVE, phone, revision=3))
    first, lost, tablet, ghost = user.keys
    ghost = replace(ghost, enter_time=lost.enter_time, state_time=lost.enter_time)
    user.keys, user.revision = (first, lost, ghost, tablet), revision + 1


def a_fork(realm: SimulatedRealm, phone: DeviceKeyPair) -> None:
    realm.renew(phone)
    first = realm.users["bob"].keys[-1]
    realm.renew(phone)
    realm.users["bob"].keys = tuple(
        replace(key, state=SUPERSEDED, state_time=realm.clock()) if key is first else key
        for key in realm.users["bob"].keys
    )


def a_device_that_is_hidden(realm: SimulatedRealm, _: DeviceKeyPair) -> None:
    user = realm.users["bob"]
    user.revision, user.keys = user.revision + 1, user.keys[:-1]


def another_record_of_the_same_revision(realm: SimulatedRealm, phone: DeviceKeyPair) -> None:
    realm.revoke(phone)
    realm.users["bob"].revision -= 1


def an_earlier_record(realm: SimulatedRealm, _: DeviceKeyPair) -> None:
    user = realm.users["bob"]
    user.revision, user.keys = user.revision - 1, user.keys[:-1]


def a_revoked_device_that_is_good_again(realm: SimulatedRealm, phone: DeviceKeyPair) -> None:
    user = realm.users["bob"]
    ended = next(key for key in user.keys if not key.is_good)
    good = replace(ended, state=pb.KEY_STATE_GOOD, state_time=ended.enter_time, reason=NO_REASON)
    user.revision, user.keys = user.revision + 1, tuple(good if key is ended else key for key in user.keys)
    assert phone.fingerprint != ended.fingerprint


def a_reset(realm: SimulatedRealm, _: DeviceKeyPair) -> None:
    realm.reset("bob")


def nobody_of_that_name(realm: SimulatedRealm, _: DeviceKeyPair) -> None:
    del realm.users["bob"]


LIES: dict[Callable[[SimulatedRealm, DeviceKeyPair], None], str] = {
    a_key_that_nobody_vouches_for: "TREE_BROKEN",
    a_device_by_a_forged_word: "ENDORSEMENT_REFUSED",
    a_device_by_a_word_for_another: "ENDORSEMENT_REFUSED",
    a_ghost_that_was_always_there: "GHOST_DEVICE",
    a_fork: "FORK_DETECTED",
    a_device_that_is_hidden: "RECORD_REGRESSED",
    another_record_of_the_same_revision: "EQUIVOCATION",
    an_earlier_record: "RECORD_REGRESSED",
    a_revoked_device_that_is_good_again: "RECORD_REGRESSED",
    a_reset: "IDENTITY_CHANGED",
    nobody_of_that_name: "RECORD_REGRESSED",
}


@pytest.mark.parametrize(("lie", "reason"), LIES.items(), ids=lambda value: getattr(value, "__name__", value))
async def test_a_lie_stops_a_message_is_told_and_kept_and_is_forgiven(
    alice: Any, bob: Any, services: Services, clock: ManualClock, lie: Any, reason: str
) -> None:
    phone, realm = bob.client._parts.identity.current, services.realm
    lost = realm.approve(phone)
    realm.revoke(lost)
    tablet = realm.approve(phone)
    clock.advance(HOUR)
    await alice.client.send("bob", "before")
    honest = replace(realm.users["bob"])
    lie(realm, phone)
    clock.advance(HOUR)
    with pytest.raises(ProtocolError) as raised:
        await alice.client.send("bob", "for Bob alone")
    assert raised.value.reason == reason
    assert alice.reasons("error") == [reason]
    (evidence,) = await alice.client.evidence("bob")
    assert (evidence.reason, bool(evidence.previous)) == (reason, True)
    assert {address for address, waiting in services.mailboxes.items() if waiting} == {phone.address, tablet.address}
    realm.users["bob"] = honest
    clock.advance(HOUR)
    await alice.client.send("bob", "after")
    assert [message.text for message in await bob.inbox()] == ["before", "after"]
    assert alice.reasons("error") == [reason]
