"""Peers that are many renewals behind: they ask for what they do not hold, and verify the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import TreeBrokenError
from keypost.protocol.key_info import restore_key_info
from keypost.protocol.suites import WEAK
from support.keys import crossed_keys

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.clock import ManualClock
    from support.simulation import Services

RETENTION = 60 * DAY


def forget_ended_keys(services: Services) -> None:
    """Let the keys of Bob that have ended leave the record for the history, as after the retention."""
    user = services.realm.users["bob"]
    user.history += tuple(key.request for key in user.keys if not key.is_good)
    user.keys = tuple(key for key in user.keys if key.is_good)


def renew_often(services: Services, clock: ManualClock, pair: DeviceKeyPair, times: int) -> DeviceKeyPair:
    for _ in range(times):
        pair = services.realm.renew(pair)
    clock.advance(RETENTION)
    forget_ended_keys(services)
    return pair


async def test_who_is_behind_is_shown_what_it_does_not_hold_and_goes_on_silently(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    pair = renew_often(services, clock, services.realm.enroll("bob"), 2)
    await alice.client.send("bob", "one")
    asked = [request for request in services.requests["GetKeyInfo"] if request.username == "bob"]
    assert asked[0].history_from_fingerprint == b""
    latest = renew_often(services, clock, pair, 3)
    await alice.client.send("bob", "two")
    asked = [request for request in services.requests["GetKeyInfo"] if request.username == "bob"]
    assert asked[-1].history_from_fingerprint == pair.fingerprint
    held = await alice.client._parts.records.held("bob")
    assert [request.revision for request in held.history] == [1, 2, 3, 4, 5]
    assert held.tree().root == services.realm.users["bob"].history[0].fingerprint
    assert [len(services.mailboxes[latest.address]), alice.reasons()] == [2, []]


async def test_what_is_held_is_whole_after_a_restart_too(
    alice: Any, services: Services, clock: ManualClock, open_client: Any
) -> None:
    pair = renew_often(services, clock, services.realm.enroll("bob"), 2)
    await alice.client.send("bob", "one")
    renew_often(services, clock, pair, 2)
    await alice.client.send("bob", "two")
    await alice.client.close()
    again = await open_client("alice", bundle=None)
    stored = await again.client._parts.context.store.run(lambda store: store.records.find("bob"))
    record = restore_key_info(pb.KeyInfo.FromString(stored.key_info))
    assert [request.revision for request in record.requests] == [1, 2, 3, 4, 5]
    await again.client.keys("bob")
    assert again.reasons() == []


async def test_a_history_with_a_hole_is_refused_and_the_whole_one_afterwards_is_not(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    pair = services.realm.enroll("bob")
    await alice.client.send("bob", "before")
    renew_often(services, clock, pair, 3)
    services.serve_key_info = lambda name, info: pb.KeyInfo(record=info.record) if name == "bob" else info
    with pytest.raises(TreeBrokenError):
        await alice.client.send("bob", "not to be sent")
    assert [one.reason for one in await alice.client.evidence("bob")] == ["TREE_BROKEN"]
    services.serve_key_info = lambda _, info: info
    await alice.client.send("bob", "after")


async def test_a_chain_of_nearly_a_thousand_renewals_is_verified_silently(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    alice = await open_client("alice", minimum_suite=WEAK)
    await alice.client.enroll("alice")
    keys = crossed_keys(WEAK, more=26)
    services.realm.new_private_key = lambda _: next(keys)
    pair = services.realm.enroll("bob", WEAK)
    for _ in range(3):
        await alice.client.send("bob", "still Bob")
        pair = renew_often(services, clock, pair, 330)
    await alice.client.send("bob", "still Bob")
    record = await alice.client.keys("bob")
    assert (len(record.requests), record.find(pair.fingerprint) is not None) == (991, True)
    assert alice.reasons("error") == []
