"""Revocation: every rule, broken once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from keypost.clock import DAY, HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import check_pins, check_successor, pin
from keypost.protocol.errors import NoUsableDeviceError
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import STRONG, WEAK
from keypost.protocol.validity import Policy, check_can_send
from keypost_services.ca.store import RevisionTakenError, StoreAwayError
from keypost_services.runtime.errors import ServiceError
from support.ca import KEY_LIFETIME, OPEN, CaBench, open_bench

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair

RETIRED, LOST = pb.REVOCATION_REASON_RETIRED, pb.REVOCATION_REASON_LOST
COMPROMISED, RESET = pb.REVOCATION_REASON_COMPROMISED, pb.REVOCATION_REASON_RESET
REVOKED = pb.KEY_STATE_REVOKED


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(ServiceError) as refusal:
        await call
    return refusal.value.reason


def state_of(record: KeyRecord, pair: DeviceKeyPair) -> tuple[int, int, int]:
    key = record.get(pair.fingerprint)
    return key.state, key.reason, key.state_time


async def two_devices(bench: CaBench, username: str = "alice") -> tuple[DeviceKeyPair, DeviceKeyPair]:
    first = await bench.enroll(username)
    return first, await bench.approve(first)


async def test_each_key_that_a_change_ends_has_a_line_in_the_log(bench: CaBench) -> None:
    """Without a copy of the audit log, what is to be revoked again after a restore is found by these lines alone."""
    first, second = await two_devices(bench)
    thief = await bench.approve(second)
    await bench.revoke(second, first, reason=COMPROMISED, since_time=1)
    lines = [json.loads(line) for line in bench.output.getvalue().splitlines()]
    told = [line for line in lines if line["event"] == "change" and line["action"] == "revoked"]
    assert [(line["username"], line["device_id"], line["fingerprint"], line["revision"]) for line in told] == [
        ("alice", pair.address.device_id, pair.fingerprint.hex(), 4) for pair in (second, thief)
    ]
    assert {(line["reason"], line["actor_kind"]) for line in told} <= {("compromised", "device"), ("void", "device")}


async def test_a_change_that_was_not_answered_is_in_the_log_as_in_doubt(
    bench: CaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bench.enroll("alice")
    monkeypatch.setattr(bench.store, "apply", AsyncMock(side_effect=StoreAwayError("gone")))
    with pytest.raises(StoreAwayError):
        await bench.revoke(first)
    line = json.loads(bench.output.getvalue().splitlines()[-1])
    assert (line["event"], line["username"], line["revision"]) == ("change_in_doubt", "alice", 2)


@pytest.mark.parametrize("reason", [RETIRED, LOST, COMPROMISED])
async def test_a_device_withdraws_another_for_a_reason(bench: CaBench, reason: Any) -> None:
    first, second = await two_devices(bench)
    before = await bench.record("alice")
    bench.clock.advance(HOUR)
    record = await bench.revoke(second, first, reason=reason)
    assert (record.revision, state_of(record, second)) == (3, (REVOKED, reason, bench.clock()))
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [first.fingerprint]
    (event,) = await bench.store.list_events(2, 9)
    assert (event.revision, event.kind, event.fingerprint, event.ended_fingerprint) == (
        3,
        pb.KEY_EVENT_KIND_REVOKED,
        second.fingerprint,
        second.fingerprint,
    )
    assert check_successor(before, record, bench.realm.constants) is record
    assert check_pins(pin(before), record), "peers accept it silently"


async def test_a_device_withdraws_itself_and_may_ask_again(bench: CaBench) -> None:
    _, second = await two_devices(bench)
    signed = await bench.revocation(second, reason=RETIRED)
    answers = [await bench.submit_revoke(signed) for _ in range(2)]
    assert [state_of(record, second)[:2] for record in answers] == [(REVOKED, RETIRED)] * 2
    assert await bench.store.newest_sequence() == 3


async def test_a_withdrawal_sent_twice_at_once_is_answered_twice(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    signed = await bench.revocation(second, first)
    records = await asyncio.gather(*(bench.submit_revoke(signed) for _ in range(4)))
    assert {record.revision for record in records} == {3}
    assert await bench.store.newest_sequence() == 3


async def test_two_devices_that_withdraw_each_other_at_once_leave_one(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    statements = [await bench.revocation(first, second), await bench.revocation(second, first)]
    outcomes = await asyncio.gather(*map(bench.submit_revoke, statements), return_exceptions=True)
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)] == ["REVOCATION_REFUSED"]
    assert len((await bench.record("alice")).good_keys(bench.clock())) == 1


async def test_a_withdrawal_overtaken_again_and_again_may_be_tried_again(
    bench: CaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await two_devices(bench)
    signed = await bench.revocation(second, first)

    async def refuse(_change: object) -> None:
        raise RevisionTakenError

    with monkeypatch.context() as always:
        always.setattr(bench.store, "apply", refuse)
        assert await refused(bench.submit_revoke(signed)) == "KEYS_CHANGING"
    assert (await bench.submit_revoke(signed)).revision == 3


@pytest.mark.parametrize("revision", [2, 4])
async def test_a_withdrawal_made_for_another_revision_is_refused(bench: CaBench, revision: int) -> None:
    first, second = await two_devices(bench)
    assert await refused(bench.revoke(second, first, revision=revision)) == "REVISION_TAKEN"


async def test_only_a_key_of_the_user_withdraws(bench: CaBench) -> None:
    first, _ = await two_devices(bench)
    mallory = await bench.enroll("mallory")
    stranger = bench.new_pair(first.address)
    for signer in (mallory, stranger):
        assert await refused(bench.revoke(first, signer)) == "REVOCATION_REFUSED"
    nobody = await bench.revocation(first, username="nobody")
    assert await refused(bench.submit_revoke(nobody)) == "REVOCATION_REFUSED", "who exists is not told"


async def test_a_signature_of_another_key_withdraws_nothing(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    signed = await bench.revocation(first, await bench.enroll("mallory"))
    signed.signer_fingerprint = second.fingerprint
    assert await refused(bench.submit_revoke(signed)) == "REVOCATION_REFUSED"


@pytest.mark.parametrize("end", ["expired", "replaced", "revoked"])
async def test_a_key_that_may_not_act_withdraws_nothing(bench: CaBench, end: str) -> None:
    first, second = await two_devices(bench)
    match end:
        case "expired":
            bench.clock.advance(KEY_LIFETIME)
        case "replaced":
            await bench.renew(second)
        case _:
            await bench.revoke(second, first)
    assert await refused(bench.revoke(first, second)) == "REVOCATION_REFUSED"


async def test_the_device_of_a_key_that_was_withdrawn_is_told_so_when_it_renews(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    await bench.revoke(second, first)
    _, signed = await bench.renew_request(second)
    assert await refused(bench.submit_renew(signed)) == "KEY_REVOKED"
    signed.endorsement = bytes(len(signed.endorsement))
    assert await refused(bench.submit_renew(signed)) == "ENDORSEMENT_REFUSED", "nobody else is told"


async def test_a_key_of_a_suite_that_is_no_longer_allowed_withdraws_nothing(tmp_path: Path) -> None:
    async with open_bench(tmp_path, constants=Constants(allowed_suites=(STRONG.id, WEAK.id))) as bench:
        weak = await bench.enroll("alice", suite=WEAK)
        bench.trust.constants.__dict__["allowed_suites"] = (STRONG.id,)
        assert await refused(bench.revoke(weak)) == "REVOCATION_REFUSED"


async def test_a_key_withdrawn_for_another_reason_stays_so(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    await bench.revoke(second, first, reason=LOST)
    assert await refused(bench.revoke(second, first, reason=RETIRED)) == "KEY_ENDED"


@pytest.mark.parametrize("changes", [{"fingerprint": b"f" * 32}, {"device_id": "b" * 16}])
async def test_what_is_no_key_of_the_device_is_not_withdrawn(bench: CaBench, changes: dict[str, Any]) -> None:
    first, second = await two_devices(bench)
    assert await refused(bench.revoke(second, first, **changes)) == "KEY_ENDED"


async def test_the_last_device_may_go_and_an_enrolment_begins_anew(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    record = await bench.revoke(first)
    with pytest.raises(NoUsableDeviceError):
        check_can_send(record, Policy(bench.realm.constants), bench.clock())
    await bench.enroll("alice")
    record = await bench.record("alice")
    assert (record.epoch, state_of(record, first)[1]) == (2, LOST)


async def test_an_expired_device_is_withdrawn(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    bench.clock.advance(KEY_LIFETIME // 2)
    second = await bench.approve(first)
    bench.clock.advance(KEY_LIFETIME // 2)
    assert state_of(await bench.revoke(first, second), first)[0] == REVOKED


async def test_a_replaced_key_is_withdrawn_and_its_end_is_not_put_off(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    replaced = bench.clock()
    renewed = await bench.renew(second)
    before = await bench.record("alice")
    bench.clock.advance(HOUR)
    record = await bench.revoke(second, first, reason=COMPROMISED)
    assert state_of(record, second) == (REVOKED, COMPROMISED, replaced)
    assert record.get(renewed.fingerprint).is_good
    assert check_successor(before, record, bench.realm.constants) is record
    (event,) = await bench.store.list_events(3, 9)
    assert (event.fingerprint, event.ended_fingerprint) == (second.fingerprint, b""), "no good key ended"


async def test_what_a_compromised_key_vouched_for_since_ends_with_it(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    honest = await bench.approve(second)
    bench.clock.advance(HOUR)
    stolen = bench.clock()
    bench.clock.advance(1)
    thief = await bench.approve(second)
    grandchild = await bench.approve(thief)
    entered = bench.clock()
    renewed = await bench.renew(thief)
    before = await bench.record("alice")
    bench.clock.advance(HOUR)
    record = await bench.revoke(second, first, reason=COMPROMISED, since_time=stolen)
    assert state_of(record, second) == (REVOKED, COMPROMISED, stolen)
    for pair in (thief, grandchild, renewed):
        assert state_of(record, pair) == (REVOKED, COMPROMISED, entered)
        assert record.is_void(record.get(pair.fingerprint))
    good = [key.fingerprint for key in record.good_keys(bench.clock())]
    assert good == [first.fingerprint, honest.fingerprint]
    assert check_successor(before, record, bench.realm.constants) is record
    events = await bench.store.list_events(6, 9)
    assert [(event.kind, event.revision) for event in events] == [(pb.KEY_EVENT_KIND_REVOKED, record.revision)] * 4
    ended = [second.fingerprint, b"", grandchild.fingerprint, renewed.fingerprint]
    assert [event.ended_fingerprint for event in events] == ended


async def test_what_descends_through_a_key_that_was_withdrawn_before_ends_too(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    bench.clock.advance(1)
    thief = await bench.approve(second)
    grandchild = await bench.approve(thief)
    await bench.revoke(thief, first, reason=RETIRED)
    record = await bench.revoke(second, first, reason=COMPROMISED, since_time=bench.clock() - 1)
    assert state_of(record, thief)[1] == RETIRED, "a reason stays"
    assert state_of(record, grandchild)[1] == COMPROMISED
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [first.fingerprint]


async def test_who_withdraws_the_key_that_vouched_for_it_may_end_itself(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    bench.clock.advance(1)
    second = await bench.approve(first)
    record = await bench.revoke(first, second, reason=COMPROMISED, since_time=bench.clock() - 1)
    assert not record.good_keys(bench.clock())


async def test_a_compromise_is_not_said_to_be_to_come(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    revocation = bench.revoke(second, first, reason=COMPROMISED, since_time=bench.clock() + 1)
    with pytest.raises(ServiceError) as refusal:
        await revocation
    assert (refusal.value.reason, refusal.value.metadata["field"]) == (
        "INVALID_FIELD",
        "revocation.revocation.since_time",
    )


async def test_a_compromise_of_earlier_than_was_said_is_not_taken_for_the_same(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    said = bench.clock()
    before = await bench.revoke(second, first, reason=COMPROMISED, since_time=said)
    again = await bench.revoke(second, first, reason=COMPROMISED, since_time=said)
    assert again.revision == 3
    record = await bench.revoke(second, first, reason=COMPROMISED, since_time=said - 1)
    assert (record.revision, state_of(record, second)) == (4, (REVOKED, COMPROMISED, said - 1))
    assert check_successor(before, record, bench.realm.constants) is record


@pytest.mark.parametrize("reason", [LOST, RETIRED])
async def test_a_lost_device_can_turn_out_to_be_in_the_hands_of_a_thief(bench: CaBench, reason: Any) -> None:
    """What the thief had approved before the loss was noticed goes too."""
    first, second = await two_devices(bench)
    stolen = bench.clock()
    bench.clock.advance(1)
    thiefs = await bench.approve(second)
    bench.clock.advance(1)
    before = await bench.revoke(second, first, reason=reason)
    lost = bench.clock()
    assert before.get(thiefs.fingerprint).is_good
    bench.clock.advance(1)
    record = await bench.revoke(second, first, reason=COMPROMISED)
    assert state_of(record, second) == (REVOKED, COMPROMISED, lost), "never later than it was said"
    assert record.get(thiefs.fingerprint).is_good, "it was approved before"
    after = await bench.revoke(second, first, reason=COMPROMISED, since_time=stolen)
    assert [key.address for key in after.good_keys(bench.clock())] == [first.address]
    for older, newer in ((before, record), (record, after), (before, after)):
        assert check_successor(older, newer, bench.realm.constants) is newer


async def test_a_key_of_the_history_comes_back_when_it_turns_out_to_be_compromised(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    entered = bench.clock()
    renewed = [second, await bench.renew(second)]
    bench.clock.advance(bench.realm.constants.retention)
    renewed.append(await bench.renew(renewed[-1]))
    first = await bench.renew(first)
    before = await bench.record("alice")
    assert before.find(second.fingerprint) is None
    assert await refused(bench.revoke(second, first, reason=LOST)) == "KEY_ENDED"
    record = await bench.revoke(second, first, reason=COMPROMISED, since_time=entered - 1)
    assert state_of(record, second) == (REVOKED, COMPROMISED, entered - 1)
    assert [key.address for key in record.good_keys(bench.clock())] == [first.address], "what it vouched for is void"
    assert check_successor(before, record, bench.realm.constants) is record
    bench.clock.advance(2 * bench.realm.constants.retention - KEY_LIFETIME // 2)
    assert (await bench.record("alice")).find(second.fingerprint), "it stays"


async def test_a_key_that_left_record_and_history_is_not_withdrawn(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    await bench.revoke(second, first, reason=RETIRED)
    bench.clock.advance(KEY_LIFETIME)
    new = await bench.enroll("alice")
    assert await refused(bench.revoke(second, new, reason=COMPROMISED)) == "KEY_ENDED"


async def test_an_announced_reset_stays_announced(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    announced = await bench.resets.request("alice", OPEN)
    assert (await bench.revoke(second, first)).reset_time == announced.reset_time


async def test_a_clock_that_goes_back_spoils_no_record(bench: CaBench) -> None:
    first, second = await two_devices(bench)
    entered = bench.clock()
    bench.clock.advance(-1)
    record = await bench.revoke(second, first, reason=COMPROMISED)
    assert state_of(record, second) == (REVOKED, COMPROMISED, entered)


async def test_compromised_keys_of_long_ago_do_not_keep_new_ones_out(tmp_path: Path) -> None:
    async with open_bench(tmp_path, most_recent_keys=3) as bench:
        first = await bench.enroll("alice")
        second = await bench.approve(first)
        await bench.revoke(second, first, reason=COMPROMISED)
        third = await bench.approve(first)
        _, signed = await bench.approve_request(first)
        assert await refused(bench.submit_approve(signed)) == "RATE_LIMITED"
        await bench.revoke(third, first, reason=COMPROMISED)
        bench.clock.advance(bench.realm.constants.retention + DAY)
        assert len((await bench.record("alice")).keys) == 3
        await bench.approve(first)


@pytest.mark.parametrize("end", ["retired", "renewed and retired"])
async def test_what_left_record_and_history_long_ago_does_not_come_back_as_a_ghost(bench: CaBench, end: str) -> None:
    """It was vouched for by the key that turns out to be compromised; clients have forgotten it, as they may."""
    first, second = await two_devices(bench)
    gone = await bench.approve(second)
    if end != "retired":
        await bench.revoke(await bench.renew(gone), first, reason=RETIRED)
    else:
        await bench.revoke(gone, first, reason=RETIRED)
    third = await bench.renew(second)
    bench.clock.advance(bench.realm.constants.retention)
    await bench.renew(third)
    first = await bench.renew(first)
    before = await bench.record("alice")
    assert not {second.fingerprint, gone.fingerprint} & {key.fingerprint for key in before.keys}
    assert gone.fingerprint not in {request.fingerprint for request in before.history}
    record = await bench.revoke(second, first, reason=COMPROMISED, since_time=1)
    assert check_successor(before, record, bench.realm.constants) is record
    assert [key.address for key in record.good_keys(bench.clock())] == [first.address]
    assert record.find(gone.fingerprint) is None


async def test_what_a_compromised_key_vouched_for_before_stays_good_however_long(bench: CaBench) -> None:
    """Its own enter_time says so; once it had left for the history, only its successor's would be known."""
    first = await bench.enroll("alice")
    second = await bench.approve(first)
    compromised = bench.clock()
    bench.clock.advance(HOUR)
    newest = await bench.renew(second)
    await bench.revoke(first, newest, reason=COMPROMISED, since_time=compromised)
    for _ in range(3):
        bench.clock.advance(bench.realm.constants.retention)
        before = await bench.record("alice")
        newest = await bench.renew(newest)
        record = await bench.record("alice")
        assert check_successor(before, record, bench.realm.constants) is record
        assert [key.fingerprint for key in record.good_keys(bench.clock())] == [newest.fingerprint]
