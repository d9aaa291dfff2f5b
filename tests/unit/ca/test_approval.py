"""Approval: every rule, broken once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import check_pins, check_successor, pin
from keypost.protocol.identifiers import Address
from keypost.protocol.renewal import step_4_upload
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.runtime.errors import ServiceError
from support.ca import KEY_LIFETIME, OPEN, CaBench, open_bench

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from keypost.protocol.key_requests import DeviceKeyPair


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(ServiceError) as refusal:
        await call
    return refusal.value.reason


async def approve_refused(bench: CaBench, parent: DeviceKeyPair, **changes: Any) -> str:
    _, signed = await bench.approve_request(parent, **changes)
    return await refused(bench.submit_approve(signed))


async def test_a_device_vouches_for_a_further_one(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    before = await bench.record("alice")
    second, signed = await bench.approve_request(first)
    record = await bench.submit_approve(signed)
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [first.fingerprint, second.fingerprint]
    assert (record.epoch, record.revision, record.get(second.fingerprint).request.signed) == (1, 2, signed)
    (event,) = await bench.store.list_events(1, 9)
    assert (event.kind, event.fingerprint, event.ended_fingerprint) == (
        pb.KEY_EVENT_KIND_ENROLLED,
        second.fingerprint,
        b"",
    )
    assert check_successor(before, record, bench.realm.constants) is record
    assert check_pins(pin(before), record).root == first.fingerprint, "peers accept it silently"


async def test_an_approved_device_approves_and_renews(bench: CaBench) -> None:
    second = await bench.approve(await bench.enroll("alice"))
    third = await bench.approve(second)
    renewed = await bench.renew(third)
    record = await bench.record("alice")
    assert len({key.address for key in record.good_keys(bench.clock())}) == 3
    assert record.get(renewed.fingerprint).is_good


async def test_beginning_stores_nothing_and_never_draws_a_device_twice(bench: CaBench) -> None:
    await bench.enroll("alice")
    starts = [await bench.approval.begin("alice") for _ in range(20)]
    assert len({start.device_id for start in starts}) == 20
    assert await bench.store.newest_sequence() == 1


async def test_a_lost_answer_is_repeated(bench: CaBench) -> None:
    second, signed = await bench.approve_request(await bench.enroll("alice"))
    await bench.submit_approve(signed)
    bench.clock.advance(KEY_LIFETIME + DAY)  # nonce and parent are long over
    repeated = await bench.submit_approve(signed)
    assert (repeated.revision, repeated.find(second.fingerprint) is not None) == (2, True)
    assert await bench.store.newest_sequence() == 2


async def test_a_request_sent_twice_at_once_is_answered_twice(bench: CaBench) -> None:
    _, signed = await bench.approve_request(await bench.enroll("alice"))
    records = await asyncio.gather(*(bench.submit_approve(signed) for _ in range(4)))
    assert {record.revision for record in records} == {2}
    assert await bench.store.newest_sequence() == 2


async def test_two_approvals_at_once_record_one(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    requests = [(await bench.approve_request(first))[1] for _ in range(3)]
    outcomes = await asyncio.gather(*map(bench.submit_approve, requests), return_exceptions=True)
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)] == ["REVISION_TAKEN"] * 2


async def test_a_request_overtaken_by_its_twin_between_two_reads_is_answered_as_the_twin(
    bench: CaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, signed = await bench.approve_request(await bench.enroll("alice"))
    find_key = bench.store.find_key

    async def after_the_twin(fingerprint: bytes) -> Any:
        monkeypatch.undo()
        await bench.submit_approve(signed)
        return await find_key(fingerprint)

    monkeypatch.setattr(bench.store, "find_key", after_the_twin)
    assert (await bench.submit_approve(signed)).revision == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ca_nonce": b"n" * 56}, "NONCE_EXPIRED"),
        ({"device_id": "b" * 16}, "NONCE_EXPIRED"),
        ({"username": "bob"}, "NONCE_EXPIRED"),
        ({"expire_time": 1}, "KEY_LIFETIME_REFUSED"),
        ({"revision": 1}, "ENDORSEMENT_REFUSED"),
        ({"revision": 3}, "REVISION_TAKEN"),
        ({"epoch": 2}, "ENDORSEMENT_REFUSED"),
        ({"parent_fingerprint": b"p" * 32}, "ENDORSEMENT_REFUSED"),
    ],
)
async def test_a_request_is_refused(bench: CaBench, changes: dict[str, Any], reason: str) -> None:
    assert await approve_refused(bench, await bench.enroll("alice"), **changes) == reason
    assert await bench.store.newest_sequence() == 1


async def test_a_nonce_is_over_after_ten_minutes(bench: CaBench) -> None:
    _, signed = await bench.approve_request(await bench.enroll("alice"))
    bench.clock.advance(10 * MINUTE)
    assert await refused(bench.submit_approve(signed)) == "NONCE_EXPIRED"


@pytest.mark.parametrize("of", ["enrollment", "renewal"])
async def test_a_nonce_of_another_purpose_is_none(bench: CaBench, of: str) -> None:
    first = await bench.enroll("alice")
    start = await bench.approval.begin("alice")
    if of == "enrollment":
        other = await bench.enrollment.begin("alice", OPEN)
    else:
        other = await bench.renewal.begin(Address("alice", start.device_id))
    pair = bench.new_pair(Address("alice", other.device_id))
    fields = {"kind": pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": first.fingerprint}
    signed = step_4_upload(bench.request(pair, other, **fields), pair, first)
    assert await refused(bench.submit_approve(signed)) == "NONCE_EXPIRED"


async def test_an_expired_key_does_not_vouch(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    bench.clock.advance(KEY_LIFETIME)
    assert await approve_refused(bench, first) == "KEY_EXPIRED"


async def test_a_replaced_key_does_not_vouch(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    await bench.renew(first)
    assert await approve_refused(bench, first) == "KEY_REPLACED"


async def test_a_revoked_key_does_not_vouch(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    second = await bench.approve(first)
    await bench.revoke(second, first)
    assert await approve_refused(bench, second) == "KEY_REVOKED"


async def test_a_key_of_an_ended_epoch_does_not_vouch(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    bench.clock.advance(KEY_LIFETIME)
    await bench.enroll("alice")
    assert await approve_refused(bench, first) == "KEY_REVOKED"


@pytest.mark.parametrize("end", ["expired", "replaced", "revoked"])
async def test_what_became_of_a_key_only_its_holder_learns(bench: CaBench, end: str) -> None:
    first = await bench.enroll("alice")
    _, signed = await bench.approve_request(first)
    if end == "expired":
        bench.clock.advance(KEY_LIFETIME)
        _, signed = await bench.approve_request(first)
    else:
        await (bench.renew(first) if end == "replaced" else bench.revoke(first))
    signed.endorsement = bytes(len(signed.endorsement))
    assert await refused(bench.submit_approve(signed)) == "ENDORSEMENT_REFUSED"


async def test_a_weak_key_does_not_vouch(bench: CaBench) -> None:
    assert await approve_refused(bench, await bench.enroll("alice", suite=WEAK)) == "ENDORSEMENT_REFUSED"


async def test_a_key_of_another_user_does_not_vouch(bench: CaBench) -> None:
    await bench.enroll("alice")
    mallory = await bench.enroll("mallory")
    start = await bench.approval.begin("alice")
    pair = bench.new_pair(Address("alice", start.device_id))
    fields = {"kind": pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": mallory.fingerprint}
    signed = step_4_upload(bench.request(pair, start, **fields), pair, mallory)
    assert await refused(bench.submit_approve(signed)) == "ENDORSEMENT_REFUSED"


async def test_an_invitation_makes_one_device(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    start = await bench.approval.begin("alice")
    fields = {"kind": pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": first.fingerprint}
    answers = []
    for revision in (2, 3):
        pair = bench.new_pair(Address("alice", start.device_id))
        signed = step_4_upload(bench.request(pair, start, **fields | {"revision": revision}), pair, first)
        answers.append(bench.submit_approve(signed))
    assert (await answers[0]).revision == 2
    assert await refused(answers[1]) == "NONCE_EXPIRED"
    assert len((await bench.record("alice")).keys) == 2


async def test_a_key_on_record_is_not_recorded_again(bench: CaBench) -> None:
    first, other = await bench.enroll("alice"), await bench.enroll("bob")
    start = await bench.approval.begin("alice")
    pair = other.__class__(Address("alice", start.device_id), STRONG, other.private_key, other.public_key_der)
    fields = {"kind": pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": first.fingerprint}
    signed = step_4_upload(bench.request(pair, start, **fields), pair, first)
    assert await refused(bench.submit_approve(signed)) == "KEY_ALREADY_KNOWN"


async def test_a_user_has_so_many_devices_and_no_more(tmp_path: Path) -> None:
    async with open_bench(tmp_path, most_devices=3) as bench:
        first = await bench.enroll("alice")
        second = await bench.approve(first)
        await bench.approve(first)
        assert await approve_refused(bench, first) == "TOO_MANY_DEVICES"
        await bench.revoke(second, first)
        await bench.approve(first)


async def test_whether_a_user_exists_is_not_told(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    real, decoy = [await bench.approval.begin(name) for name in ("alice", "nobody")]
    assert (real.epoch, len(real.ca_nonce), real.current_time, real.kind) == (
        decoy.epoch,
        len(decoy.ca_nonce),
        decoy.current_time,
        decoy.kind,
    )
    assert real.next_revision == decoy.next_revision == 2, "neither has renewed yet"
    pair = bench.new_pair(Address("nobody", decoy.device_id))
    fields = {"kind": pb.KEY_REQUEST_KIND_APPROVE, "parent_fingerprint": first.fingerprint}
    signed = step_4_upload(bench.request(pair, decoy, **fields), pair, first)
    assert await refused(bench.submit_approve(signed)) == "ENDORSEMENT_REFUSED"


async def test_an_announced_reset_stays_announced(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    announced = await bench.resets.request("alice", OPEN)
    await bench.approve(first)
    assert (await bench.record("alice")).reset_time == announced.reset_time
