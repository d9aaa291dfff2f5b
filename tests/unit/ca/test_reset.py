"""Identity resets: every rule, broken once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, HOUR
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import check_pins, check_successor, pin
from keypost.protocol.errors import IdentityChangedError
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.policy import RESET_STAYS_OPEN
from keypost_services.ca.sign_in.port import Proof
from keypost_services.runtime.errors import ServiceError
from support.ca import KEY_LIFETIME, OPEN, RESET_DELAY, CaBench

if TYPE_CHECKING:
    from collections.abc import Awaitable

RESET = pb.KEY_REQUEST_KIND_RESET
ENROLL = pb.KEY_REQUEST_KIND_ENROLL
ADMINISTRATOR = Actor(ActorKind.ADMINISTRATOR, "ada")


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(ServiceError) as refusal:
        await call
    return refusal.value.reason


async def enroll_refused(bench: CaBench, **changes: Any) -> str:
    _, signed = await bench.enroll_request("alice", **changes)
    return await refused(bench.submit_enroll(signed))


async def test_a_reset_is_announced_to_all(bench: CaBench) -> None:
    await bench.enroll("alice")
    before = await bench.record("alice")
    announced = await bench.resets.request("alice", OPEN)
    assert (announced.reset_time, announced.current_time) == (bench.clock() + RESET_DELAY, bench.clock())
    record = await bench.record("alice")
    assert (record.revision, record.epoch, record.reset_time) == (2, 1, announced.reset_time)
    assert len(record.good_keys(bench.clock())) == 1, "no key changed"
    assert check_successor(before, record, bench.realm.constants) is record
    (event,) = await bench.store.list_events(1, 9)
    assert (event.kind, event.revision, event.fingerprint, event.ended_fingerprint) == (
        pb.KEY_EVENT_KIND_RESET_ANNOUNCED,
        2,
        b"",
        b"",
    )


async def test_while_a_reset_is_announced_its_time_stays(bench: CaBench) -> None:
    await bench.enroll("alice")
    first = await bench.resets.request("alice", OPEN)
    bench.clock.advance(HOUR)
    again = await bench.resets.request("alice", OPEN)
    assert (again.reset_time, again.current_time) == (first.reset_time, bench.clock())
    assert await bench.store.newest_sequence() == 2


async def test_two_announcements_at_once_are_one(bench: CaBench) -> None:
    await bench.enroll("alice")
    answers = await asyncio.gather(*(bench.resets.request("alice", OPEN) for _ in range(4)))
    assert len({answer.reset_time for answer in answers}) == 1
    assert await bench.store.newest_sequence() == 2


async def test_before_it_is_due_a_device_must_approve(bench: CaBench) -> None:
    await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    bench.clock.advance(RESET_DELAY - 1)
    start = await bench.enrollment.begin("alice", OPEN)
    assert (start.epoch, start.kind) == (1, ENROLL)
    assert await enroll_refused(bench) == "APPROVAL_REQUIRED"
    assert await enroll_refused(bench, kind=RESET, epoch=2) == "APPROVAL_REQUIRED"


async def test_once_it_is_due_an_epoch_begins(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    second = await bench.approve(first)
    before = await bench.record("alice")
    await bench.resets.request("alice", OPEN)
    bench.clock.advance(RESET_DELAY)
    start = await bench.enrollment.begin("alice", OPEN)
    assert (start.epoch, start.next_revision, start.kind) == (2, 4, RESET)
    new, signed = await bench.enroll_request("alice", kind=RESET)
    record = await bench.submit_enroll(signed)
    assert (record.epoch, record.revision, record.reset_time) == (2, 4, 0)
    assert [key.fingerprint for key in record.good_keys(bench.clock())] == [new.fingerprint]
    for old in (first, second):
        key = record.get(old.fingerprint)
        assert (key.state, key.reason, key.state_time) == (
            pb.KEY_STATE_REVOKED,
            pb.REVOCATION_REASON_RESET,
            bench.clock(),
        )
    assert check_successor(before, record, bench.realm.constants) is record
    with pytest.raises(IdentityChangedError):
        check_pins(pin(before), record)
    events = await bench.store.list_events(3, 9)
    assert [event.kind for event in events] == [
        pb.KEY_EVENT_KIND_REVOKED,
        pb.KEY_EVENT_KIND_REVOKED,
        pb.KEY_EVENT_KIND_ENROLLED,
    ]


async def test_a_lost_answer_is_repeated(bench: CaBench) -> None:
    await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    bench.clock.advance(RESET_DELAY)
    _, signed = await bench.enroll_request("alice", kind=RESET)
    revisions = [(await bench.submit_enroll(signed)).revision for _ in range(2)]
    assert revisions == [3, 3]


async def test_a_due_reset_takes_no_key_of_another_kind(bench: CaBench) -> None:
    await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    bench.clock.advance(RESET_DELAY)
    assert await enroll_refused(bench, kind=ENROLL) == "APPROVAL_REQUIRED"


async def test_a_reset_that_nobody_took_is_over(bench: CaBench) -> None:
    await bench.enroll("alice")
    announced = await bench.resets.request("alice", OPEN)
    bench.clock.advance(RESET_DELAY + RESET_STAYS_OPEN)
    assert await enroll_refused(bench, kind=RESET, epoch=2) == "APPROVAL_REQUIRED"
    again = await bench.resets.request("alice", OPEN)
    assert again.reset_time == bench.clock() + RESET_DELAY > announced.reset_time


async def test_a_reset_begun_whose_devices_have_ended_begins_anew(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    await bench.resets.open_now("alice", ADMINISTRATOR)
    _, signed = await bench.enroll_request("alice", kind=RESET)
    await bench.revoke(first)
    assert await refused(bench.submit_enroll(signed)) == "REVISION_TAKEN"
    assert (await bench.enrollment.begin("alice", OPEN)).kind == ENROLL
    await bench.enroll("alice")
    assert (await bench.record("alice")).reset_time == 0, "an enrolment clears it"


@pytest.mark.parametrize("missing", ["user", "device"])
async def test_where_an_enrolment_does_no_reset_is_needed(bench: CaBench, missing: str) -> None:
    if missing == "device":
        await bench.enroll("alice")
        bench.clock.advance(KEY_LIFETIME)
    assert await refused(bench.resets.request("alice", OPEN)) == "RESET_NOT_NEEDED"


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_permission_comes_before_existence(code_bench: CaBench, name: str) -> None:
    await code_bench.enroll("alice", await code_bench.add_code("alice"))
    for proof in (OPEN, Proof("0" * 26)):
        assert await refused(code_bench.resets.request(name, proof)) == "SIGN_IN_REFUSED"


async def test_a_code_is_not_used_up_by_an_announcement(code_bench: CaBench) -> None:
    await code_bench.enroll("alice", await code_bench.add_code("alice"))
    proof = await code_bench.add_code("alice", 2 * DAY)
    await code_bench.resets.request("alice", proof)
    code_bench.clock.advance(RESET_DELAY)
    _, signed = await code_bench.enroll_request("alice", proof, kind=RESET)
    assert (await code_bench.submit_enroll(signed, proof)).epoch == 2


async def test_a_used_code_announces_nothing(code_bench: CaBench) -> None:
    proof = await code_bench.add_code("alice")
    await code_bench.enroll("alice", proof)
    assert await refused(code_bench.resets.request("alice", proof)) == "SIGN_IN_REFUSED"


async def test_a_device_calls_it_off(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    before = await bench.record("alice")
    record = await bench.cancel_reset(first)
    assert (record.revision, record.reset_time) == (3, 0)
    assert check_successor(before, record, bench.realm.constants) is record
    (event,) = await bench.store.list_events(2, 9)
    assert (event.kind, event.fingerprint) == (pb.KEY_EVENT_KIND_RESET_CANCELLED, b"")
    bench.clock.advance(RESET_DELAY)
    assert await enroll_refused(bench, kind=RESET, epoch=2) == "APPROVAL_REQUIRED"


async def test_a_device_calls_off_what_is_due_already(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    bench.clock.advance(RESET_DELAY + HOUR)
    assert (await bench.cancel_reset(first)).reset_time == 0


async def test_calling_off_again_is_answered_as_the_first_time(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    signed = await bench.cancellation(first)
    revisions = [(await bench.submit_cancel(signed)).revision for _ in range(2)]
    assert revisions == [3, 3]


async def test_a_cancellation_calls_off_one_reset(bench: CaBench) -> None:
    first = await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    signed = await bench.cancellation(first)
    await bench.submit_cancel(signed)
    await bench.resets.request("alice", OPEN)
    assert await refused(bench.submit_cancel(signed)) == "REVISION_TAKEN"


@pytest.mark.parametrize("who", ["revoked", "replaced", "expired", "mallory", "nobody", "another device"])
async def test_only_a_good_device_of_the_user_calls_it_off(bench: CaBench, who: str) -> None:
    first = await bench.enroll("alice")
    second = await bench.approve(first)
    await bench.resets.request("alice", OPEN)
    changes: dict[str, Any] = {}
    match who:
        case "revoked":
            await bench.revoke(second, first)
        case "replaced":
            await bench.renew(second)
        case "expired":
            bench.clock.advance(KEY_LIFETIME)
        case "mallory":
            second, changes = await bench.enroll("mallory"), {"username": "alice"}
        case "nobody":
            changes = {"username": "nobody"}
        case _:
            changes = {"device_id": first.address.device_id}
    assert await refused(bench.cancel_reset(second, **changes)) == "RESET_CANCELLATION_REFUSED"


async def test_an_administrator_makes_it_due_at_once(bench: CaBench) -> None:
    await bench.enroll("alice")
    for _ in range(2):
        answer = bench.read(await bench.resets.open_now("alice", ADMINISTRATOR), "alice")
        assert (answer.revision, answer.reset_time) == (2, bench.clock())
    assert (await bench.enrollment.begin("alice", OPEN)).kind == RESET


async def test_an_administrator_hastens_what_was_announced(bench: CaBench) -> None:
    await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    assert bench.read(await bench.resets.open_now("alice", ADMINISTRATOR), "alice").reset_time == bench.clock()


async def test_an_administrator_calls_it_off(bench: CaBench) -> None:
    await bench.enroll("alice")
    await bench.resets.request("alice", OPEN)
    for _ in range(2):
        assert bench.read(await bench.resets.call_off("alice", ADMINISTRATOR), "alice").revision == 3


async def test_an_administrator_learns_who_does_not_exist(bench: CaBench) -> None:
    assert await refused(bench.resets.open_now("nobody", ADMINISTRATOR)) == "USER_NOT_FOUND"
    assert await refused(bench.resets.call_off("nobody", ADMINISTRATOR)) == "USER_NOT_FOUND"
    await bench.enroll("alice")
    bench.clock.advance(KEY_LIFETIME)
    assert await refused(bench.resets.open_now("alice", ADMINISTRATOR)) == "RESET_NOT_NEEDED"
