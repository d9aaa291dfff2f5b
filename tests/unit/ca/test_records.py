"""What the CA says of a user's keys, read as a client reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY, HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import check_successor
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import WEAK
from keypost_services.ca.policy import Policy
from keypost_services.ca.records import Records
from keypost_services.runtime.errors import ServiceError
from support.ca import served_realm
from support.realm import seeded_signer

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.signing import Ed25519Signer
    from support.ca import CaBench

RETENTION = Constants().retention


async def test_a_record_is_fresh_for_the_record_lifetime(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    bench.clock.advance(DAY)
    record = await bench.record("alice")
    assert (record.this_update, record.next_update) == (bench.clock(), bench.clock() + HOUR)
    assert record.revision == 1


async def test_who_does_not_exist_has_no_record(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    assert await bench.records.find_one("nobody", b"") is None
    assert set(await bench.records.find(["alice", "nobody"])) == {"alice"}


async def renewed(bench: CaBench, times: int) -> list[DeviceKeyPair]:
    """Return the keys of a device, oldest first, one replaced each day."""
    keys = [await bench.enroll("alice", suite=WEAK)]
    for _ in range(times):
        bench.clock.advance(DAY)
        keys.append(await bench.renew(keys[-1]))
    return keys


async def test_a_replaced_key_stays_for_the_retention_then_becomes_history(bench: CaBench) -> None:
    keys = await renewed(bench, 2)
    bench.clock.advance(RETENTION - DAY - 1)
    record = await bench.record("alice")
    assert [key.fingerprint for key in record.keys] == [key.fingerprint for key in keys]
    assert not record.history
    bench.clock.advance(1)
    record = await bench.record("alice")
    assert [key.fingerprint for key in record.keys] == [key.fingerprint for key in keys[1:]]
    assert [request.fingerprint for request in record.history] == [keys[0].fingerprint]


async def test_history_leads_from_the_root_oldest_first(bench: CaBench) -> None:
    keys = await renewed(bench, 4)
    bench.clock.advance(RETENTION)
    record = await bench.record("alice")
    assert [request.fingerprint for request in record.history] == [key.fingerprint for key in keys[:-1]]
    assert [key.fingerprint for key in record.keys] == [keys[-1].fingerprint]


async def test_history_begins_behind_the_key_that_the_asker_names(bench: CaBench) -> None:
    keys = await renewed(bench, 4)
    bench.clock.advance(RETENTION)
    asked = await bench.records.find_one("alice", keys[2].fingerprint)
    whole = await bench.records.find_one("alice", b"")
    unknown = await bench.records.find_one("alice", b"x" * 32)
    newest = await bench.records.find_one("alice", keys[-1].fingerprint)
    assert asked
    assert whole
    assert unknown
    assert newest
    assert list(asked.history) == list(whole.history)[3:]
    assert list(unknown.history) == list(whole.history)
    assert not newest.history


async def test_history_is_of_the_current_epoch(bench: CaBench) -> None:
    keys = await renewed(bench, 2)
    bench.clock.advance(90 * DAY)
    await bench.enroll("alice", suite=WEAK)
    record = await bench.record("alice")
    assert not record.history
    assert [key.request.epoch for key in record.keys] == [1, 2]
    assert record.find(keys[-1].fingerprint) is not None


def records_of(bench: CaBench, *signers: Ed25519Signer) -> Records:
    return Records(bench.store, served_realm(bench.trust, *signers), Policy(bench.realm.constants, DAY), bench.clock)


async def test_a_record_outlives_nothing_that_vouches_for_it(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    bench.clock.now = bench.trust.until_time - 1
    found = await bench.records.find_one("alice", b"")
    assert found
    assert bench.read(found, "alice").next_update == bench.trust.until_time
    bench.clock.advance(1)
    with pytest.raises(ServiceError, match="cannot sign records now"):
        await bench.records.find_one("alice", b"")


async def test_a_key_that_the_realm_does_not_list_signs_nothing(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    for signers in ([], [seeded_signer(9)]):
        with pytest.raises(ServiceError, match="cannot sign records now"):
            await records_of(bench, *signers).find_one("alice", b"")


def test_the_lifetime_of_keys_stays_below_the_realms() -> None:
    with pytest.raises(ValueError, match="longest_key_lifetime"):
        Policy(Constants(longest_key_lifetime=DAY), DAY + 1)


async def test_what_a_compromised_key_vouched_for_stays_in_the_record(bench: CaBench) -> None:
    """When it entered, before the compromise or after, decides whether it is void; the history does not say."""
    root = await bench.enroll("alice")
    child = await bench.renew(root)
    await bench.renew(child)
    user = (await bench.store.find_users(["alice"]))["alice"]
    compromised = replace(
        user.keys[0], state=pb.KEY_STATE_REVOKED, reason=pb.REVOCATION_REASON_COMPROMISED, state_time=bench.clock() - 1
    )
    late = bench.clock() + RETENTION
    policy = Policy(Constants(), DAY)
    assert [key.revision for key in policy.entries_of(user, late)] == [3]
    user = replace(user, keys=(compromised, *user.keys[1:]))
    assert [key.revision for key in policy.entries_of(user, late)] == [1, 2, 3]


async def test_a_child_of_a_compromised_key_that_has_left_for_good_stays_away(bench: CaBench) -> None:
    """Whoever saw it leave would take it for a ghost."""
    root = await bench.enroll("alice")
    await bench.revoke(await bench.approve(root), root)
    bench.clock.advance(RETENTION)
    seen = await bench.record("alice")
    assert [key.request.revision for key in seen.keys] == [1]
    await bench.approve(root)
    await bench.revoke(root, reason=pb.REVOCATION_REASON_COMPROMISED, since_time=1)
    after = await bench.record("alice")
    assert [key.request.revision for key in after.keys] == [1, 4]
    check_successor(seen, after, bench.trust.constants)


async def test_a_user_without_a_device_keeps_a_record_that_leads_to_the_root(bench: CaBench) -> None:
    root = await bench.enroll("alice")
    renewed_key = await bench.renew(root)
    other = await bench.approve(renewed_key)
    await bench.revoke(other)
    await bench.revoke(renewed_key)
    bench.clock.advance(RETENTION)
    record = await bench.record("alice")
    assert [key.request.revision for key in record.keys] == [3]
    assert [request.revision for request in record.history] == [1, 2]
    assert record.tree().root == root.fingerprint
