"""What a CA could say of a user that is not so: to the directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keypost.clock import HOUR, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from support.attacks import check_told
from support.directory import CaHost, DirectoryUnderTest, running_ca, running_directory
from support.lies import STRANGER, in_place_of, publish, resigned
from support.realm import SimulatedRealm, seeded_signer
from support.refusals import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.clock import ManualClock

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[CaHost]:
    async with running_ca(tmp_path, SimulatedRealm(clock)) as host:
        yield host


@pytest.fixture
async def directory(host: CaHost, clock: ManualClock) -> AsyncIterator[DirectoryUnderTest]:
    async with running_directory(host, clock, NO_REDIS) as directory:
        yield directory


async def is_not_served(directory: DirectoryUnderTest, reason: str, harm: str = "") -> None:
    """Demand that Bob is not to be had, and that the operator is told why."""
    await refused(directory.revision("bob"), "CA_UNAVAILABLE", harm)
    check_told([line["reason"] for line in directory.logged("record refused")], reason)
    assert directory.metric("records_refused_total", source="ca", reason=reason) == 1


async def test_a_forged_record(directory: DirectoryUnderTest) -> None:
    realm = directory.realm
    in_place_of(realm, "bob")
    forged = resigned(realm, realm.statement("bob"), STRANGER)
    forged.record.record_key_fingerprint = realm.record_signer.fingerprint
    directory.ca.answers["bob"] = forged
    await is_not_served(directory, "SIGNATURE_INVALID")


async def test_the_record_of_another_user(directory: DirectoryUnderTest) -> None:
    directory.realm.enroll("mallory")
    directory.ca.answers["bob"] = directory.realm.key_info("mallory")
    await is_not_served(directory, "RECORD_REFUSED")


async def test_a_record_that_has_expired(directory: DirectoryUnderTest, clock: ManualClock) -> None:
    directory.realm.enroll("bob")
    directory.ca.answers["bob"] = directory.realm.key_info("bob")
    clock.advance(HOUR)
    await is_not_served(directory, "RECORD_EXPIRED")


async def test_an_old_revision(directory: DirectoryUnderTest, clock: ManualClock) -> None:
    realm = directory.realm
    phone = realm.enroll("bob")
    old = realm.statement("bob")
    realm.renew(phone)
    assert await directory.revision("bob") == 2
    clock.advance(HOUR)
    old.this_update, old.next_update = clock(), clock() + HOUR
    directory.ca.answers["bob"] = resigned(realm, old)
    await is_not_served(directory, "RECORD_REGRESSED")


async def test_a_revision_below_the_one_that_was_announced(directory: DirectoryUnderTest) -> None:
    realm = directory.realm
    realm.revoke(realm.approve(realm.enroll("bob")))
    await directory.act_on("bob")
    realm.users["bob"].keys = realm.users["bob"].keys[:1]
    directory.ca.answers["bob"] = realm.key_info("bob", revision=2)
    await is_not_served(directory, "RECORD_REGRESSED")


async def test_two_records_of_one_revision(directory: DirectoryUnderTest, clock: ManualClock) -> None:
    realm = directory.realm
    laptop = realm.approve(realm.enroll("bob"))
    await directory.revision("bob")
    realm.revoke(laptop)
    directory.ca.answers["bob"] = realm.key_info("bob", revision=2)
    clock.advance(HOUR)
    directory.ca.answers["bob"] = realm.key_info("bob", revision=2)
    await is_not_served(directory, "EQUIVOCATION")


async def test_an_entry_that_goes_back(directory: DirectoryUnderTest, clock: ManualClock) -> None:
    realm = directory.realm
    laptop = realm.approve(realm.enroll("bob"))
    entered = clock()
    realm.revoke(laptop)
    await directory.revision("bob")
    realm.set_state(laptop, pb.KEY_STATE_GOOD, since=entered)
    publish(realm, "bob")
    clock.advance(HOUR)
    await is_not_served(directory, "RECORD_REGRESSED")


async def test_a_user_who_was_there_is_denied(directory: DirectoryUnderTest, clock: ManualClock) -> None:
    directory.realm.enroll("bob")
    await directory.revision("bob")
    directory.ca.answers["bob"] = None
    clock.advance(HOUR)
    await is_not_served(directory, "RECORD_REGRESSED", harm="USER_NOT_FOUND")


async def test_trust_goes_back(host: CaHost, clock: ManualClock) -> None:
    realm = host.ca.realm
    host.ca.trust, stolen = realm.signed_trust(sequence=4), realm.record_signer
    realm.record_signer = seeded_signer(3)
    before, host.ca.trust = host.ca.trust, realm.signed_trust(sequence=5)
    async with running_directory(host, clock, NO_REDIS) as directory:
        host.ca.trust, realm.record_signer = before, stolen
        realm.enroll("bob")
        clock.advance(MINUTE)
        await is_not_served(directory, "UNKNOWN_RECORD_KEY")
        assert directory.logged("realm trust refused")[0]["reason"] == "REALM_TRUST_REGRESSED"
