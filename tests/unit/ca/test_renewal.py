"""Renewal: every rule, broken once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import RecordFromFutureError
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.realm_trust import Constants
from keypost.protocol.renewal import step_4_upload
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.runtime.errors import ServiceError
from support.ca import KEY_LIFETIME, CaBench, open_bench

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

WINDOW = Constants().renewal_window


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(ServiceError) as refusal:
        await call
    return refusal.value.reason


async def renew_refused(bench: CaBench, old: DeviceKeyPair, **changes: Any) -> str:
    _, signed = await bench.renew_request(old, **changes)
    return await refused(bench.submit_renew(signed))


@pytest.mark.parametrize("suite", [STRONG, WEAK])
async def test_a_key_is_replaced_by_its_successor(bench: CaBench, suite: Any) -> None:
    old = await bench.enroll("alice", suite=suite)
    bench.clock.advance(DAY)
    new, signed = await bench.renew_request(old)
    record = await bench.submit_renew(signed)
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [new.fingerprint]
    ended = record.get(old.fingerprint)
    assert (ended.state, ended.state_time) == (pb.KEY_STATE_SUPERSEDED, bench.clock())
    assert (record.epoch, record.revision) == (1, 2)
    (event,) = await bench.store.list_events(1, 9)
    assert (event.kind, event.fingerprint, event.ended_fingerprint) == (
        pb.KEY_EVENT_KIND_RENEWED,
        new.fingerprint,
        old.fingerprint,
    )


async def test_steps_5_to_7_are_observed_in_order(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    await bench.renew(old)
    assert [(step.list, step.step, step.actor) for step in bench.steps] == [
        ("renewal", number, "ca") for number in (5, 6, 7)
    ]
    assert bench.steps[0].facts["bytes"] == 20  # SHA-1, as the source document has it


async def test_an_unknown_parent_looks_like_a_wrong_one(bench: CaBench) -> None:
    stranger = bench.new_pair(Address("nobody", "a" * 16), WEAK)
    assert await renew_refused(bench, stranger) == "ENDORSEMENT_REFUSED"
    old = await bench.enroll("alice", suite=WEAK)
    beside = bench.new_pair(old.address, WEAK)
    assert await renew_refused(bench, beside) == "ENDORSEMENT_REFUSED"


async def test_the_key_of_another_user_renews_nothing(bench: CaBench) -> None:
    alice, bob = await bench.enroll("alice", suite=WEAK), await bench.enroll("bob", suite=WEAK)
    disguised = DeviceKeyPair(alice.address, WEAK, bob.private_key, bob.public_key_der)
    assert await renew_refused(bench, disguised) == "ENDORSEMENT_REFUSED"


async def test_the_key_of_another_device_renews_nothing(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    elsewhere = DeviceKeyPair(Address("alice", "b" * 16), WEAK, old.private_key, old.public_key_der)
    assert await renew_refused(bench, elsewhere) == "ENDORSEMENT_REFUSED"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ca_nonce": b"n" * 56}, "NONCE_EXPIRED"),
        ({"expire_time": 1}, "KEY_LIFETIME_REFUSED"),
        ({"revision": 3}, "REVISION_TAKEN"),
        ({"revision": 1}, "ENDORSEMENT_REFUSED"),
        ({"epoch": 2}, "ENDORSEMENT_REFUSED"),
    ],
)
async def test_a_request_is_refused(bench: CaBench, changes: dict[str, Any], reason: str) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    assert await renew_refused(bench, old, **changes) == reason
    assert (await bench.record("alice")).revision == 1


async def test_a_lifetime_beyond_policy_is_refused(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    too_long = bench.clock() + KEY_LIFETIME + 1
    assert await renew_refused(bench, old, expire_time=too_long) == "KEY_LIFETIME_REFUSED"


async def test_an_expired_nonce_is_refused(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    _, signed = await bench.renew_request(old)
    bench.clock.advance(10 * MINUTE)
    assert await refused(bench.submit_renew(signed)) == "NONCE_EXPIRED"


async def test_the_nonce_of_another_name_is_refused(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    start = await bench.renewal.begin(Address("bob", old.address.device_id))
    assert await renew_refused(bench, old, ca_nonce=start.ca_nonce) == "NONCE_EXPIRED"


async def test_a_suite_may_be_raised(bench: CaBench) -> None:
    strong = await bench.renew(await bench.enroll("alice", suite=WEAK), STRONG)
    assert [key.fingerprint for key in (await bench.record("alice")).good_keys(bench.clock())] == [strong.fingerprint]


async def test_an_expired_key_renews_within_the_window(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    bench.clock.advance(KEY_LIFETIME + WINDOW - 1)
    assert (await bench.submit_renew((await bench.renew_request(old))[1])).good_keys(bench.clock())


async def test_a_key_known_elsewhere_is_refused(bench: CaBench) -> None:
    old, bob = await bench.enroll("alice", suite=WEAK), await bench.enroll("bob", suite=WEAK)
    bench.keys = lambda _suite=WEAK: bob.private_key  # type: ignore[assignment]
    assert await renew_refused(bench, old) == "KEY_ALREADY_KNOWN"
    bench.keys = lambda _suite=WEAK: old.private_key  # type: ignore[assignment]
    assert await renew_refused(bench, old) == "KEY_ALREADY_KNOWN"


async def test_a_renewal_of_a_key_by_itself_says_first_what_became_of_it(bench: CaBench) -> None:
    """By that a device asks that was approved, and that the directory shows no record."""

    async def became(key: DeviceKeyPair) -> str:
        start = await bench.renewal.begin(key.address)
        kind = pb.KEY_REQUEST_KIND_RENEW
        request = bench.request(key, start, kind=kind, parent_fingerprint=key.fingerprint)
        return await refused(bench.submit_renew(step_4_upload(request, key, key)))

    first = await bench.enroll("alice", suite=WEAK)
    assert await became(first) == "KEY_ALREADY_KNOWN"
    assert await became(bench.new_pair(first.address, WEAK)) == "ENDORSEMENT_REFUSED"
    second = await bench.renew(first)
    assert await became(first) == "KEY_REPLACED"
    bench.clock.advance(2 * KEY_LIFETIME + WINDOW)
    assert await became(first) == "KEY_REPLACED", "though it has left the record"
    await bench.enroll("alice", suite=WEAK)
    assert await became(second) == "KEY_REVOKED"
    assert (await bench.record("alice")).revision == 3


async def test_a_lost_answer_is_repeated(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    new, signed = await bench.renew_request(old)
    await bench.submit_renew(signed)
    bench.clock.advance(DAY)  # the nonce is long over
    repeated = await bench.submit_renew(signed)
    assert (repeated.revision, repeated.get(new.fingerprint).is_good) == (2, True)
    assert await bench.store.newest_sequence() == 2


@pytest.mark.parametrize("changes", [{"parent_fingerprint": b"p" * 32}, {"device_id": "b" * 16}])
async def test_only_the_same_renewal_is_a_repetition(bench: CaBench, changes: dict[str, Any]) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    new, _ = await bench.renew_request(old)
    bench.keys = lambda _suite=WEAK: new.private_key  # type: ignore[assignment]
    await bench.renew(old)
    _, signed = await bench.renew_request(old, ca_nonce=b"", **changes)
    assert await refused(bench.submit_renew(signed)) == "NONCE_EXPIRED"


async def test_a_replayed_request_brings_no_key_back(bench: CaBench) -> None:
    first = await bench.enroll("alice", suite=WEAK)
    second, signed = await bench.renew_request(first)
    await bench.submit_renew(signed)
    third = await bench.renew(second)
    record = await bench.submit_renew(signed)
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [third.fingerprint]
    assert await bench.store.newest_sequence() == 3


async def test_of_two_renewals_at_once_one_wins(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    requests = [(await bench.renew_request(old))[1] for _ in range(2)]
    outcomes = await asyncio.gather(*map(bench.submit_renew, requests), return_exceptions=True)
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)] == ["REVISION_TAKEN"]
    assert len((await bench.record("alice")).good_keys(bench.clock())) == 1


async def test_a_request_sent_twice_at_once_is_answered_twice(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    _, signed = await bench.renew_request(old)
    records = await asyncio.gather(*(bench.submit_renew(signed) for _ in range(4)))
    assert {record.revision for record in records} == {2}
    assert await bench.store.newest_sequence() == 2


async def test_beginning_tells_nobody_who_exists(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    there = await bench.renewal.begin(old.address)
    other_device = await bench.renewal.begin(Address("alice", "b" * 16))
    assert (there.epoch, there.next_revision) == (other_device.epoch, other_device.next_revision)
    nobody = [await bench.renewal.begin(Address("nobody", "b" * 16)) for _ in range(2)]
    assert {(begun.epoch, begun.next_revision) for begun in (there, *nobody)} == {(1, 2)}
    assert len(nobody[0].ca_nonce) == len(there.ca_nonce)


async def test_who_does_not_exist_seems_to_renew_now_and_then(bench: CaBench) -> None:
    bench.clock.advance(10 * KEY_LIFETIME)
    begun = [await bench.renewal.begin(Address(f"nobody{number}", "b" * 16)) for number in range(50)]
    assert len({start.next_revision for start in begun}) > 5


async def test_a_record_does_not_grow_without_bound(tmp_path: Path) -> None:
    async with open_bench(tmp_path, most_recent_keys=3) as bench:
        key = await bench.enroll("alice", suite=WEAK)
        for _ in range(2):
            bench.clock.advance(DAY)
            key = await bench.renew(key)
        _, signed = await bench.renew_request(key)
        with pytest.raises(ServiceError) as refusal:
            await bench.submit_renew(signed)
        assert refusal.value.reason == "RATE_LIMITED"
        assert refusal.value.retry_after_ms == bench.realm.constants.retention - DAY
        bench.clock.advance(refusal.value.retry_after_ms)
        await bench.renew(key)


async def test_a_history_does_not_grow_until_nobody_can_read_it(tmp_path: Path) -> None:
    async with open_bench(tmp_path, most_entries=4) as bench:
        key = await bench.enroll("alice", suite=WEAK)
        for _ in range(3):
            bench.clock.advance(bench.realm.constants.retention)
            key = await bench.renew(key)
        record = await bench.record("alice")
        assert (len(record.keys), len(record.history)) == (2, 2)
        bench.clock.advance(bench.realm.constants.retention)
        assert await renew_refused(bench, key) == "RATE_LIMITED"
        bench.clock.advance(KEY_LIFETIME)
        await bench.enroll("alice", suite=WEAK)
        assert not (await bench.record("alice")).history, "a new epoch begins a new one"


@pytest.mark.parametrize("back", [1, DAY])
async def test_a_clock_that_goes_back_spoils_no_record(bench: CaBench, back: int) -> None:
    old = await bench.enroll("alice")
    entered = bench.clock()
    bench.clock.advance(-back)
    new, signed = await bench.renew_request(old)
    user = await bench.store.find_users(["alice"])
    assert user["alice"].no_earlier(bench.clock()) == entered
    # The client of such a CA would call its record one of the future; one whose clock is right does not.
    answer = bench.submit_renew(signed)
    if back > 5 * MINUTE:
        with pytest.raises(RecordFromFutureError):
            await answer
        bench.clock.advance(back)
    else:
        await answer
    record = await bench.record("alice")
    assert [(key.fingerprint, key.enter_time) for key in record.keys] == [
        (old.fingerprint, entered),
        (new.fingerprint, entered),
    ]


async def test_a_renewal_overtaken_by_its_twin_between_two_reads_is_answered_as_the_twin(
    bench: CaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, signed = await bench.renew_request(await bench.enroll("alice", suite=WEAK))
    find_key = bench.store.find_key

    async def after_the_twin(fingerprint: bytes) -> Any:
        monkeypatch.undo()
        await bench.submit_renew(signed)
        return await find_key(fingerprint)

    monkeypatch.setattr(bench.store, "find_key", after_the_twin)
    assert (await bench.submit_renew(signed)).revision == 2
