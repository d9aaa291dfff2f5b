"""Enrolment: every rule, broken once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, MINUTE, SECOND
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import check_successor
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import sign_possession
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.ca.acts import codes_withdrawn
from keypost_services.ca.audit import NOWHERE, OPERATOR
from keypost_services.ca.codes import realm_hash
from keypost_services.ca.sign_in.port import Proof
from keypost_services.ca.store import CodeUsedError, KeyAlreadyKnownError, RevisionTakenError
from keypost_services.runtime.errors import ServiceError
from support.ca import KEY_LIFETIME, OPEN, RESET_DELAY, CaBench, open_bench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path

    from keypost_services.ca.audit import AuditEntry
    from keypost_services.ca.store import Change

WRONG_CODE = Proof("0" * 26)


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(ServiceError) as refusal:
        await call
    return refusal.value.reason


async def enroll_refused(bench: CaBench, proof: Proof = OPEN, suite: Any = WEAK, **changes: Any) -> str:
    _, signed = await bench.enroll_request("alice", proof, suite, **changes)
    return await refused(bench.submit_enroll(signed, proof))


async def withdraw_codes(bench: CaBench) -> None:
    """Withdraw all open codes of Alice."""
    await bench.store.withdraw_codes(codes_withdrawn("alice", OPERATOR, bench.clock(), NOWHERE))


async def test_a_first_key_is_recorded(bench: CaBench) -> None:
    pair, signed = await bench.enroll_request("alice", suite=STRONG)
    record = await bench.submit_enroll(signed)
    (key,) = record.good_keys(bench.clock())
    assert (key.fingerprint, key.address, key.request.signed) == (pair.fingerprint, pair.address, signed)
    assert (record.epoch, record.revision, key.state_time) == (1, 1, bench.clock())
    (event,) = await bench.store.list_events(0, 9)
    assert (event.kind, event.username, event.fingerprint) == (
        pb.KEY_EVENT_KIND_ENROLLED,
        "alice",
        pair.fingerprint,
    )


async def test_beginning_stores_nothing_and_never_draws_a_device_twice(bench: CaBench) -> None:
    starts = [await bench.enrollment.begin("alice", OPEN) for _ in range(20)]
    assert len({start.device_id for start in starts}) == 20
    assert all(Address("alice", start.device_id) for start in starts)
    assert not await bench.store.find_users(["alice"])


async def test_a_code_enrols_once(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    pair = await code_bench.enroll("alice", proof, WEAK)
    code_bench.clock.advance(KEY_LIFETIME)
    assert await enroll_refused(code_bench, proof) == "SIGN_IN_REFUSED"
    assert (await code_bench.record("alice")).find(pair.fingerprint)


@pytest.mark.parametrize("proof", [OPEN, WRONG_CODE])
async def test_permission_comes_before_existence(code_bench: CaBench, proof: Proof) -> None:
    await code_bench.enroll("alice", await code_bench.add_code("alice"), WEAK)
    answers = [await refused(code_bench.enrollment.begin(name, proof)) for name in ("alice", "nobody")]
    assert answers == ["SIGN_IN_REFUSED"] * 2


async def test_an_open_ca_takes_no_codes(bench: CaBench) -> None:
    assert await refused(bench.enrollment.begin("alice", WRONG_CODE)) == "SIGN_IN_REFUSED"


async def test_a_failed_enrolment_does_not_use_up_the_code(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    assert await enroll_refused(code_bench, proof, expire_time=1) == "KEY_LIFETIME_REFUSED"
    await code_bench.enroll("alice", proof, WEAK)


async def test_a_code_that_is_withdrawn_after_the_sign_in_enrols_nobody(
    code_bench: CaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = await code_bench.add_code("alice")
    _, signed = await code_bench.enroll_request("alice", proof, WEAK)
    apply = code_bench.store.apply

    async def too_late(change: Change) -> Sequence[AuditEntry]:
        await withdraw_codes(code_bench)
        return await apply(change)

    monkeypatch.setattr(code_bench.store, "apply", too_late)
    assert await refused(code_bench.submit_enroll(signed, proof)) == "SIGN_IN_REFUSED"
    assert not await code_bench.store.find_users(["alice"])


async def test_why_a_code_is_refused_is_told_to_the_operator_alone(code_bench: CaBench) -> None:
    used, expired = await code_bench.add_code("alice"), await code_bench.add_code("alice", lifetime=MINUTE)
    pair = await code_bench.enroll("alice", used, WEAK)
    code_bench.clock.advance(KEY_LIFETIME)
    withdrawn = await code_bench.add_code("alice")
    await withdraw_codes(code_bench)
    refusals = [
        await refused(code_bench.enrollment.begin("alice", OPEN)),
        await refused(code_bench.enrollment.begin("alice", WRONG_CODE)),
        await refused(code_bench.enrollment.begin("alice", expired)),
        await refused(code_bench.enrollment.begin("alice", withdrawn)),
        await enroll_refused(code_bench, used),
    ]
    assert refusals == ["SIGN_IN_REFUSED"] * 5
    lines = [json.loads(line) for line in code_bench.output.getvalue().splitlines()]
    causes = [line["cause"] for line in lines if line["event"] == "sign_in_refused"]
    assert causes == ["KIND_NOT_TAKEN", "UNKNOWN_CODE", "EXPIRED", "ENDED", "USED"]
    assert str(used.code) not in code_bench.output.getvalue()
    assert (await code_bench.record("alice")).find(pair.fingerprint)


async def test_a_code_of_a_realm_with_other_root_keys_is_refused(code_bench: CaBench) -> None:
    code_bench.binding, own = realm_hash(code_bench.trust.realm, [b"another root"]), code_bench.binding
    elsewhere = await code_bench.add_code("alice")
    assert await refused(code_bench.enrollment.begin("alice", elsewhere)) == "SIGN_IN_REFUSED"
    code_bench.binding = own
    await code_bench.enroll("alice", await code_bench.add_code("alice"), WEAK)


async def test_a_code_that_lasts_longer_than_a_reset_waits_enrols_after_it(code_bench: CaBench) -> None:
    await code_bench.enroll("alice", await code_bench.add_code("alice"), WEAK)
    short, lasting = await code_bench.add_code("alice"), await code_bench.add_code("alice", lifetime=3 * DAY)
    await code_bench.resets.request("alice", lasting)
    code_bench.clock.advance(RESET_DELAY)
    assert await refused(code_bench.enrollment.begin("alice", short)) == "SIGN_IN_REFUSED"
    kind = pb.KEY_REQUEST_KIND_RESET
    _, signed = await code_bench.enroll_request("alice", lasting, WEAK, kind=kind)
    assert (await code_bench.submit_enroll(signed, lasting)).epoch == 2
    assert await refused(code_bench.resets.request("alice", lasting)) == "SIGN_IN_REFUSED"


async def test_a_code_raced_for_enrols_one(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    requests = [(await code_bench.enroll_request("alice", proof, WEAK))[1] for _ in range(5)]
    outcomes = await asyncio.gather(
        *(code_bench.submit_enroll(signed, proof) for signed in requests), return_exceptions=True
    )
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)]
    assert reasons == ["SIGN_IN_REFUSED"] * 4
    assert len((await code_bench.record("alice")).keys) == 1


async def test_two_codes_raced_with_enrol_one_device(code_bench: CaBench) -> None:
    requests = []
    for _ in range(2):
        proof = await code_bench.add_code("alice")
        requests.append((proof, (await code_bench.enroll_request("alice", proof, WEAK))[1]))
    outcomes = await asyncio.gather(
        *(code_bench.submit_enroll(signed, proof) for proof, signed in requests), return_exceptions=True
    )
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)] == ["APPROVAL_REQUIRED"]
    assert len((await code_bench.record("alice")).keys) == 1


async def test_a_lost_answer_is_repeated(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice", lifetime=MINUTE)
    pair, signed = await code_bench.enroll_request("alice", proof, WEAK)
    await code_bench.submit_enroll(signed, proof)
    code_bench.clock.advance(DAY)  # nonce and code are long over
    repeated = await code_bench.submit_enroll(signed, proof)
    assert (repeated.revision, repeated.find(pair.fingerprint) is not None) == (1, True)
    assert await code_bench.store.newest_sequence() == 1


async def test_a_request_sent_twice_at_once_is_answered_twice(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    _, signed = await code_bench.enroll_request("alice", proof, WEAK)
    records = await asyncio.gather(*(code_bench.submit_enroll(signed, proof) for _ in range(4)))
    assert {record.revision for record in records} == {1}
    assert await code_bench.store.newest_sequence() == 1


async def test_a_lost_answer_is_repeated_under_open_sign_in(bench: CaBench) -> None:
    _, signed = await bench.enroll_request("alice", suite=WEAK)
    await bench.submit_enroll(signed)
    assert (await bench.submit_enroll(signed)).revision == 1
    assert await bench.store.newest_sequence() == 1


async def test_a_used_code_repeats_nothing_but_its_own_enrolment(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    old = await code_bench.enroll("alice", proof, WEAK)
    new = await code_bench.renew(old)
    start = await code_bench.enrollment.begin("alice", proof)
    signed = sign_possession(code_bench.request(new, start), new)
    assert await refused(code_bench.submit_enroll(signed, proof)) == "SIGN_IN_REFUSED"


async def test_another_code_repeats_nothing(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    _, signed = await code_bench.enroll_request("alice", proof, WEAK)
    await code_bench.submit_enroll(signed, proof)
    other = await code_bench.add_code("alice")
    assert await refused(code_bench.submit_enroll(signed, other)) == "APPROVAL_REQUIRED"


async def test_with_a_good_device_a_further_one_needs_approval(bench: CaBench) -> None:
    await bench.enroll("alice", suite=WEAK)
    assert await enroll_refused(bench) == "APPROVAL_REQUIRED"
    bench.clock.advance(KEY_LIFETIME - 1)
    assert await enroll_refused(bench) == "APPROVAL_REQUIRED"


async def test_once_all_devices_are_expired_an_epoch_begins(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    bench.clock.advance(KEY_LIFETIME)
    new = await bench.enroll("alice", suite=WEAK)
    record = await bench.record("alice")
    assert (record.epoch, record.revision) == (2, 2)
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [new.fingerprint]
    ended = record.get(old.fingerprint)
    assert (ended.state, ended.reason) == (pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_RESET)
    events = await bench.store.list_events(1, 9)
    assert [(event.sequence, event.kind, event.ended_fingerprint) for event in events] == [
        (2, pb.KEY_EVENT_KIND_REVOKED, old.fingerprint),
        (3, pb.KEY_EVENT_KIND_ENROLLED, b""),
    ]


async def test_an_epoch_ends_all_earlier_keys_none_later_than_it_had(tmp_path: Path) -> None:
    constants = Constants(allowed_suites=(WEAK.id,), retention=10 * KEY_LIFETIME)
    async with open_bench(tmp_path, constants=constants) as bench:
        first = await bench.enroll("alice", suite=WEAK)
        bench.clock.advance(KEY_LIFETIME // 2)
        second, replaced = await bench.renew(first), bench.clock()
        times = [replaced]
        for epoch in (2, 3):
            before = await bench.record("alice")
            bench.clock.advance(KEY_LIFETIME)
            new = await bench.enroll("alice", suite=WEAK)
            times.append(bench.clock())
            record = await bench.record("alice")
            check_successor(before, record, constants)
            assert record.epoch == epoch
            assert [(key.state, key.reason, key.state_time) for key in record.keys[:-1]] == [
                (pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_RESET, time) for time in times
            ]
            assert [key.fingerprint for key in record.good_keys(bench.clock())] == [new.fingerprint]
        revoked = [event.fingerprint for event in await bench.store.list_events(2, 9) if event.ended_fingerprint]
        assert revoked[0] == second.fingerprint
        assert first.fingerprint not in revoked, "it had stopped being good before"


async def test_no_other_key_enrols_as_the_same_device_while_its_nonce_is_good(bench: CaBench) -> None:
    """What was deleted for the one, and what is told of it, would be the other's too."""
    start = await bench.enrollment.begin("alice", OPEN)
    first = bench.new_pair(Address("alice", start.device_id))
    await bench.submit_enroll(sign_possession(bench.request(first, start), first), OPEN)
    await bench.revoke(first)
    again = bench.new_pair(first.address)
    signed = sign_possession(bench.request(again, start, epoch=2, revision=3), again)
    assert await refused(bench.submit_enroll(signed, OPEN)) == "NONCE_EXPIRED"


async def test_a_key_of_an_ended_epoch_does_not_renew(bench: CaBench) -> None:
    old = await bench.enroll("alice", suite=WEAK)
    bench.clock.advance(KEY_LIFETIME)
    await bench.enroll("alice", suite=WEAK)
    _, signed = await bench.renew_request(old)
    assert await refused(bench.submit_renew(signed)) == "KEY_REVOKED"
    signed.endorsement = bytes(len(signed.endorsement))
    assert await refused(bench.submit_renew(signed)) == "ENDORSEMENT_REFUSED"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ca_nonce": b"n" * 56}, "NONCE_EXPIRED"),
        ({"ca_nonce": b""}, "NONCE_EXPIRED"),
        ({"username": "bob"}, "NONCE_EXPIRED"),
        ({"device_id": "b" * 16}, "NONCE_EXPIRED"),
        ({"expire_time": 1}, "KEY_LIFETIME_REFUSED"),
        ({"revision": 2}, "REVISION_TAKEN"),
        ({"epoch": 2}, "REVISION_TAKEN"),
    ],
)
async def test_a_request_is_refused(bench: CaBench, changes: dict[str, Any], reason: str) -> None:
    assert await enroll_refused(bench, **changes) == reason
    assert await bench.store.newest_sequence() == 0


async def test_a_lifetime_beyond_policy_is_refused_not_cut(bench: CaBench) -> None:
    latest = bench.clock() + KEY_LIFETIME
    assert await enroll_refused(bench, expire_time=latest + 1) == "KEY_LIFETIME_REFUSED"
    assert await enroll_refused(bench, expire_time=bench.clock()) == "KEY_LIFETIME_REFUSED"
    _, signed = await bench.enroll_request("alice", suite=WEAK, expire_time=latest)
    assert (await bench.submit_enroll(signed)).keys[0].expire_time == latest


async def test_a_key_raced_for_by_two_users_goes_to_one(bench: CaBench) -> None:
    pair, signed = await bench.enroll_request("alice", suite=WEAK)
    start = await bench.enrollment.begin("bob", OPEN)
    stolen = pair.__class__(Address("bob", start.device_id), WEAK, pair.private_key, pair.public_key_der)
    requests = [signed, sign_possession(bench.request(stolen, start), stolen)]
    outcomes = await asyncio.gather(*map(bench.submit_enroll, requests), return_exceptions=True)
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)] == ["KEY_ALREADY_KNOWN"]


async def test_a_request_overtaken_by_another_says_so(bench: CaBench) -> None:
    _, first = await bench.enroll_request("alice", suite=WEAK, expire_time=bench.clock() + SECOND)
    _, second = await bench.enroll_request("alice", suite=WEAK)
    await bench.submit_enroll(first)
    bench.clock.advance(SECOND)
    assert await refused(bench.submit_enroll(second)) == "REVISION_TAKEN"


async def test_a_request_overtaken_by_its_twin_between_two_reads_is_answered_as_the_twin(
    code_bench: CaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = await code_bench.add_code("alice")
    _, signed = await code_bench.enroll_request("alice", proof, WEAK)
    find_key = code_bench.store.find_key

    async def after_the_twin(fingerprint: bytes) -> Any:
        monkeypatch.undo()
        await code_bench.submit_enroll(signed, proof)
        return await find_key(fingerprint)

    monkeypatch.setattr(code_bench.store, "find_key", after_the_twin)
    assert (await code_bench.submit_enroll(signed, proof)).revision == 1


@pytest.mark.parametrize("overtaken", [RevisionTakenError, KeyAlreadyKnownError, CodeUsedError])
async def test_a_request_overtaken_again_and_again_may_be_tried_again(
    bench: CaBench, monkeypatch: pytest.MonkeyPatch, overtaken: type[Exception]
) -> None:
    _, signed = await bench.enroll_request("alice", suite=WEAK)

    async def refuse(_change: object) -> None:
        raise overtaken

    with monkeypatch.context() as always:
        always.setattr(bench.store, "apply", refuse)
        assert await refused(bench.submit_enroll(signed)) == "KEYS_CHANGING"
    assert (await bench.submit_enroll(signed)).revision == 1
