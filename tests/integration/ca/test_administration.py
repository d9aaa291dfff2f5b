"""Administrators at the CA's internal port, over real mutual TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.clock import DAY, HOUR
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.key_info import GOOD, REVOKED
from keypost_services.ca.administration.convert import read_audit_entry
from keypost_services.ca.audit import BEGINNING, Action, ActorKind, verify_chain
from support.ca_service import CaUnderTest, open_ca
from support.trust_statements import FIRST_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from keypost_services.ca.administration.client import AdministrationClient
    from keypost_services.ca.audit import AuditEntry

LOST, COMPROMISED = keys_pb.REVOCATION_REASON_LOST, keys_pb.REVOCATION_REASON_COMPROMISED


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


async def log_of(administrator: AdministrationClient, **wanted: object) -> list[AuditEntry]:
    """Return what is told of users: it comes after what the log begins with."""
    request = pb.ListAuditEntriesRequest(**{"after_sequence": FIRST_ENTRIES, **wanted})  # type: ignore[arg-type]
    return [read_audit_entry(message) async for message in administrator.audit_entries(request)]


async def test_a_code_that_an_administrator_drew_enrols_once_and_is_audited_with_its_use(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        administrator = await ca.administrator()
        made = await administrator.create_code("alice", HOUR)
        assert made.expire_time == ca.clock() + HOUR
        alice = await ca.enroll("alice", ca_pb.SignIn(one_time_code=made.code))
        drawn, used = (entry.act for entry in await log_of(administrator))
    assert (drawn.action, drawn.actor_kind, drawn.actor) == (Action.CODE_MADE, ActorKind.ADMINISTRATOR, "ada")
    assert drawn.peer.startswith("ipv4:127.0.0.1:")
    assert drawn.request_id
    assert (used.action, used.actor_kind, used.fingerprint) == (Action.ENROLLED, ActorKind.SIGN_IN, alice.fingerprint)
    assert used.actor == f"code {drawn.evidence.hex()[:16]}", "an enrolment names the code by which it was let in"
    assert made.code not in ca.output.getvalue()


async def test_open_codes_are_listed_with_who_drew_them_and_withdrawn_by_name(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        ada, grace = await ca.administrator("ada"), await ca.administrator("grace")
        his_code = await ada.create_code("bob", HOUR)
        await ada.create_code("alice", HOUR)
        await ca.code("alice")
        hers, operators, his = [code async for code in ada.codes("")]
        assert [(code.username, code.expire_time) for code in (hers, operators, his)] == [
            ("alice", ca.clock() + HOUR),
            ("alice", ca.clock() + DAY),
            ("bob", ca.clock() + HOUR),
        ]
        assert {code.create_time for code in (hers, operators, his)} == {ca.clock()}
        assert (hers.actor_kind, hers.actor) == (pb.AUDIT_ACTOR_KIND_ADMINISTRATOR, "ada")
        assert (operators.actor_kind, operators.actor) == (pb.AUDIT_ACTOR_KIND_OPERATOR, "")
        assert [code async for code in ada.codes("bob")] == [his]
        first = await ada._stub.ListOneTimeCodes(pb.ListOneTimeCodesRequest(page_size=2))
        last = await ada._stub.ListOneTimeCodes(pb.ListOneTimeCodesRequest(page_token=first.next_page_token))
        assert ([*first.codes], [*last.codes], last.next_page_token) == ([hers, operators], [his], "")
        ids = await grace.withdraw_codes("alice", hers.code_id)
        act = (await log_of(ada))[-1].act
        assert (act.action, act.actor_kind, act.actor) == (Action.CODE_WITHDRAWN, ActorKind.ADMINISTRATOR, "grace")
        assert (act.username, act.evidence.hex()[:16]) == ("alice", hers.code_id)
        assert act.peer.startswith("ipv4:127.0.0.1:")
        assert act.request_id
        # The answer was lost: it comes again, and nothing else is done.
        assert ids == await grace.withdraw_codes("alice", hers.code_id) == [hers.code_id]
        assert [code async for code in ada.codes("")] == [operators, his]
        assert await grace.withdraw_codes("alice") == [operators.code_id]
        assert await grace.withdraw_codes("alice") == []
        assert len(await log_of(ada)) == 5
        await ca.enroll("bob", ca_pb.SignIn(one_time_code=his_code.code))


async def test_why_a_code_cannot_be_withdrawn_is_said(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        ada = await ca.administrator()
        made = [await ada.create_code("alice", HOUR) for _ in range(2)]
        alice = await ca.enroll("alice", ca_pb.SignIn(one_time_code=made[0].code))
        used = (await log_of(ada, username="alice"))[-1].act.actor.removeprefix("code ")
        (unused,) = [code.code_id async for code in ada.codes("alice")]
        with pytest.raises(RefusedError) as caught:
            await ada.withdraw_codes("alice", used)
        assert (caught.value.reason, caught.value.metadata["device_id"]) == ("CODE_USED", alice.address.device_id)
        assert await refused(ada.withdraw_codes("alice", "0" * 16)) == "CODE_NOT_FOUND"
        assert await refused(ada.withdraw_codes("bob", unused)) == "CODE_NOT_FOUND"
        ca.clock.advance(HOUR)
        assert await refused(ada.withdraw_codes("alice", unused)) == "CODE_EXPIRED"
        assert await ada.withdraw_codes("alice") == []
        assert [code async for code in ada.codes("alice")] == []
        assert len(await log_of(ada)) == 3, "of what was refused nothing is entered"


async def test_a_user_is_shown_with_every_key(ca: CaUnderTest) -> None:
    old = await ca.enroll("alice")
    new = await ca.renew(old)
    user = await (await ca.administrator()).find_user("alice")
    assert (user.username, user.epoch, user.revision, user.reset_time) == ("alice", 1, 2, 0)
    assert [key.fingerprint for key in user.keys] == [old.fingerprint, new.fingerprint]
    assert [key.state for key in user.keys] == [keys_pb.KEY_STATE_SUPERSEDED, keys_pb.KEY_STATE_GOOD]
    assert user.keys[1].parent_fingerprint == old.fingerprint
    assert {key.device_id for key in user.keys} == {old.address.device_id}
    assert await refused((await ca.administrator()).find_user("nobody")) == "USER_NOT_FOUND"


async def test_users_and_entries_are_listed_page_by_page(ca: CaUnderTest) -> None:
    names = [f"user{number}" for number in range(5)]
    for name in reversed(names):
        await ca.enroll(name)
    administrator = await ca.administrator()
    assert [user.username async for user in administrator.users()] == names
    stub = administrator._stub
    first = await stub.ListUsers(pb.ListUsersRequest(page_size=2))
    assert [user.username for user in first.users] == names[:2]
    last = await stub.ListUsers(pb.ListUsersRequest(page_size=3, page_token=first.next_page_token))
    assert ([user.username for user in last.users], last.next_page_token) == (names[2:], "")
    page = await stub.ListAuditEntries(pb.ListAuditEntriesRequest(page_size=FIRST_ENTRIES + 4))
    assert [entry.sequence for entry in page.entries] == list(range(1, FIRST_ENTRIES + 5))
    rest = await stub.ListAuditEntries(pb.ListAuditEntriesRequest(page_token=page.next_page_token))
    assert [entry.sequence for entry in rest.entries] == [FIRST_ENTRIES + 5]
    assert [entry.act.username for entry in await log_of(administrator, username="user3")] == ["user3"]


async def test_an_administrator_withdraws_a_key_and_what_was_signed_is_kept(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    watch: Any = (await ca.directory()).WatchKeyEvents(info_pb.WatchKeyEventsRequest())
    assert (await watch.read()).events == []
    administrator = await ca.administrator("grace")
    user = await administrator.find_user("alice")
    after = await administrator.revoke(user, user.keys[0], LOST, 0)
    assert (after.revision, after.keys[0].state, after.keys[0].reason) == (2, keys_pb.KEY_STATE_REVOKED, LOST)
    (event,) = (await watch.read()).events
    assert (event.kind, event.ended_fingerprint) == (keys_pb.KEY_EVENT_KIND_REVOKED, alice.fingerprint)
    assert [key.state for key in (await ca.record("alice")).keys] == [REVOKED]
    act = (await log_of(administrator))[-1].act
    assert (act.action, act.actor_kind, act.actor) == (Action.REVOKED, ActorKind.ADMINISTRATOR, "grace")
    assert (act.device_id, act.fingerprint, act.reason) == (alice.address.device_id, alice.fingerprint, LOST)
    statement = keys_pb.Revocation.FromString(keys_pb.SignedRevocation.FromString(act.evidence).revocation)
    assert (statement.username, statement.revision) == ("alice", 2)


async def test_a_lost_answer_to_a_revocation_is_repeated(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    administrator = await ca.administrator()
    user = await administrator.find_user("alice")
    first = await administrator.revoke(user, user.keys[0], LOST, 0)
    assert await administrator.revoke(user, user.keys[0], LOST, 0) == first
    assert len(await log_of(administrator)) == 2


async def test_a_revocation_of_what_has_changed_meanwhile_is_refused(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    administrator = await ca.administrator()
    user = await administrator.find_user("alice")
    await ca.renew(alice)
    assert await refused(administrator.revoke(user, user.keys[0], LOST, 0)) == "REVISION_TAKEN"


async def test_a_compromise_may_lie_in_the_past_and_not_ahead(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    administrator = await ca.administrator()
    user = await administrator.find_user("alice")
    revoke = administrator.revoke(user, user.keys[0], COMPROMISED, ca.clock() + DAY)
    assert await refused(revoke) == "INVALID_FIELD"
    since = ca.clock() - HOUR
    assert (await administrator.revoke(user, user.keys[0], COMPROMISED, since)).keys[0].state_time == since


async def test_a_reset_is_allowed_at_once_and_can_be_stopped(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    administrator = await ca.administrator()
    assert (await administrator.allow_reset("alice")).reset_time == ca.clock()
    assert (await administrator.allow_reset("alice")).revision == 2, "to allow it again changes nothing"
    assert (await administrator.cancel_reset("alice")).reset_time == 0
    assert (await administrator.cancel_reset("alice")).revision == 3
    done = [(entry.act.action, entry.act.actor) for entry in await log_of(administrator)][1:]
    assert done == [(Action.RESET_ALLOWED, "ada"), (Action.RESET_CANCELLED, "ada")]
    assert await refused(administrator.allow_reset("nobody")) == "USER_NOT_FOUND"
    assert await refused(administrator.cancel_reset("nobody")) == "USER_NOT_FOUND"


async def test_who_signs_in_after_an_allowed_reset_begins_a_new_epoch(ca: CaUnderTest) -> None:
    old = await ca.enroll("alice")
    administrator = await ca.administrator()
    await administrator.allow_reset("alice")
    kind = keys_pb.KEY_REQUEST_KIND_RESET
    new, request = await ca.enroll_request("alice", kind=kind)
    await (await ca.devices()).Enroll(request)
    record = await ca.record("alice")
    assert record.epoch == 2
    assert {key.fingerprint: key.state for key in record.keys} == {old.fingerprint: REVOKED, new.fingerprint: GOOD}
    told = [(entry.act.action, entry.act.fingerprint) for entry in await log_of(administrator)][2:]
    assert told == [(Action.RESET_DONE, new.fingerprint), (Action.REVOKED, old.fingerprint)]


async def test_the_whole_log_verifies_over_the_service(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    await ca.renew(alice)
    administrator = await ca.administrator()
    await administrator.create_code("bob", HOUR)
    entries = await log_of(administrator, after_sequence=0)
    assert verify_chain(BEGINNING, entries).sequence == FIRST_ENTRIES + 3
    first, act = entries[0].act, entries[FIRST_ENTRIES + 1].act
    assert (first.action, first.actor_kind, first.revision) == (Action.TRUST_INSTALLED, ActorKind.ROOT_KEY, 1)
    assert (act.action, act.actor_kind, act.actor) == (Action.RENEWED, ActorKind.DEVICE, str(alice.address))
