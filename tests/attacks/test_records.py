"""What a directory or a CA could say of a user as a whole that is not so: to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, HOUR, MINUTE
from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.errors import (
    EquivocationError,
    MalformedStatementError,
    RecordExpiredError,
    RecordFromFutureError,
    RecordRefusedError,
    RecordRegressedError,
    SignatureInvalidError,
    UnknownRecordKeyError,
)
from support.attacks import check_told, stopped_by
from support.lies import STRANGER, answer, deny, in_place_of, publish, resigned, trust_of
from support.realm import SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from support.clock import ManualClock
    from support.simulation import Services


async def test_a_record_signed_by_nobody(alice: Any, services: Services) -> None:
    realm = services.realm
    mallory = in_place_of(realm, "bob")
    forged = resigned(realm, realm.statement("bob"), STRANGER)
    forged.record.record_key_fingerprint = realm.record_signer.fingerprint
    answer(services, "bob", forged)
    with pytest.raises(SignatureInvalidError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_record_signed_by_a_key_of_the_directorys_own(alice: Any, services: Services) -> None:
    realm = services.realm
    mallory = in_place_of(realm, "bob")
    answer(services, "bob", resigned(realm, realm.statement("bob"), STRANGER))
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_forged_record_with_the_word_that_keys_are_stale(alice: Any, services: Services) -> None:
    """Bob has revoked his laptop since Alice looked: in the newer record it is good, as it was in hers."""
    realm = services.realm
    laptop = realm.approve(realm.enroll("bob"))
    entered = realm.clock()
    await alice.client.send("bob", "before")
    realm.revoke(laptop)
    realm.set_state(laptop, key_info_pb2.KEY_STATE_GOOD, since=entered)
    publish(realm, "bob")
    forged, honest = resigned(realm, realm.statement("bob"), STRANGER), realm.key_info
    forged.record.record_key_fingerprint = realm.record_signer.fingerprint
    realm.key_info = lambda name, **changes: forged if name == "bob" else honest(name, **changes)  # type: ignore[method-assign]
    with pytest.raises(SignatureInvalidError):
        await alice.client.send("bob", "for Bob alone")
    assert len(services.mailboxes[laptop.address]) == 1


@pytest.mark.parametrize(("from_time", "until_time"), [(-DAY, 0), (HOUR, DAY)], ids=["retired", "not yet in force"])
async def test_a_record_signed_by_a_record_key_out_of_its_time(
    alice: Any, services: Services, clock: ManualClock, from_time: int, until_time: int
) -> None:
    realm, thiefs = services.realm, services.realm.record_signer
    realm.record_signer = seeded_signer(3)
    clock.advance(HOUR)
    in_force = trust_pb.RecordKey(
        public_key_der=realm.record_signer.public_key_der, from_time=1, until_time=clock() + DAY
    )
    stolen = trust_pb.RecordKey(
        public_key_der=thiefs.public_key_der, from_time=clock() + from_time, until_time=clock() + until_time
    )
    services.trust = trust_of(realm, 2, stolen, in_force)
    mallory = in_place_of(realm, "bob")
    answer(services, "bob", resigned(realm, realm.statement("bob"), thiefs))
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "for Bob alone")
    assert not services.mailboxes[mallory.address]


async def test_a_record_of_another_realm(alice: Any, services: Services, clock: ManualClock) -> None:
    other = SimulatedRealm(clock, realm="other.org", new_private_key=services.realm.new_private_key)
    other.enroll("bob")
    services.realm.enroll("bob")
    answer(services, "bob", other.key_info("bob"))
    with pytest.raises(RecordRefusedError):
        await alice.client.keys("bob")


async def test_the_record_of_another_user(alice: Any, services: Services) -> None:
    for username in ("bob", "mallory"):
        services.realm.enroll(username)
    answer(services, "bob", services.realm.key_info("mallory"))
    with pytest.raises(RecordRefusedError):
        await alice.client.keys("bob")


async def test_a_record_that_has_expired(alice: Any, services: Services, clock: ManualClock) -> None:
    services.realm.enroll("bob")
    answer(services, "bob", services.realm.key_info("bob"))
    clock.advance(HOUR)
    with pytest.raises(RecordExpiredError):
        await alice.client.send("bob", "to keys that may have been revoked since")


async def test_a_record_from_the_future(alice: Any, services: Services, clock: ManualClock) -> None:
    services.realm.enroll("bob")
    ahead = clock() + 5 * MINUTE + 1
    answer(services, "bob", services.realm.key_info("bob", this_update=ahead, next_update=ahead + HOUR))
    with pytest.raises(RecordFromFutureError):
        await alice.client.send("bob", "to keys that stand for longer than an hour")


async def test_a_record_that_lives_longer_than_the_realm_allows(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    services.realm.enroll("bob")
    answer(services, "bob", services.realm.key_info("bob", next_update=clock() + 30 * DAY))
    with stopped_by(MalformedStatementError, "longer"):
        await alice.client.send("bob", "to keys that stand for a month")


async def test_an_old_revision(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    phone = realm.enroll("bob")
    old = realm.statement("bob")
    realm.renew(phone)
    await alice.client.send("bob", "before")
    clock.advance(HOUR)
    old.this_update, old.next_update = clock(), clock() + HOUR
    answer(services, "bob", resigned(realm, old))
    with stopped_by(RecordRegressedError, "comes after"):
        await alice.client.send("bob", "to the key that Bob has replaced")
    check_told(alice.reasons("error"), "RECORD_REGRESSED")


async def test_an_old_epoch(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    realm.enroll("bob")
    before = realm.users["bob"].keys
    root = realm.reset("bob")
    await alice.client.send("bob", "to Bob after he lost everything")
    user = realm.users["bob"]
    user.keys, user.epoch = before, 1
    publish(realm, "bob")
    clock.advance(HOUR)
    with stopped_by(RecordRegressedError, "comes after"):
        await alice.client.send("bob", "to whoever found it")
    assert len(services.mailboxes[root.address]) == 1


async def test_two_records_of_one_revision(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    laptop = realm.approve(realm.enroll("bob"))
    await alice.client.send("bob", "before")
    realm.revoke(laptop)
    realm.users["bob"].revision -= 1
    clock.advance(HOUR)
    with pytest.raises(EquivocationError):
        await alice.client.send("bob", "to whatever Alice alone is shown")
    check_told(alice.reasons("error"), "EQUIVOCATION")


async def test_a_user_who_was_there_is_denied(alice: Any, services: Services, clock: ManualClock) -> None:
    services.realm.enroll("bob")
    await alice.client.send("bob", "before")
    clock.advance(HOUR)
    deny(services, "bob")
    with pytest.raises(KeypostError):
        await alice.client.send("bob", "is he gone?")
    check_told(alice.reasons("error"), "RECORD_REGRESSED")


async def test_a_sender_is_denied_so_that_the_message_is_thrown_away(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    await alice.client.send("bob", "there I am")
    deny(services, "alice")
    assert await bob.inbox() == []
    services.faults.clear()
    clock.advance(DAY)
    assert [message.text for message in await bob.inbox()] == ["there I am"]
    check_told(bob.reasons("waiting"), "USER_NOT_FOUND")
