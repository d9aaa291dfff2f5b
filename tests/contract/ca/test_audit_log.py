"""The audit log of every store of the CA."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.audit import BEGINNING, Action, ActorKind, Origin, verify_chain
from keypost_services.ca.store import (
    AuditFilter,
    Change,
    Ending,
    EventDraft,
    OneTimeCode,
    RevisionTakenError,
)
from support.ca_changes import BY_CODE, BY_DEVICE, CHANGED, change, code_act, fingerprint, key, renewal

if TYPE_CHECKING:
    from keypost_services.ca.audit import Act
    from keypost_services.ca.store import Store

DEVICE_ID = "a" * 16
CODE = OneTimeCode(b"h" * 32, "bob", CHANGED)


async def acts(store: Store, wanted: AuditFilter | None = None) -> list[Act]:
    entries = await store.list_audit_entries(0, 100, wanted or AuditFilter())
    return [entry.act for entry in entries]


async def test_a_change_is_entered_with_who_what_which_key_and_from_where(store: Store) -> None:
    await store.apply(change(key(1), origin=Origin("ipv4:192.0.2.1:4711", "request-7")))
    (act,) = await acts(store)
    assert (act.create_time, act.action, act.revision, act.reason) == (CHANGED, Action.ENROLLED, 1, 0)
    assert (act.actor_kind, act.actor) == (BY_CODE.kind, BY_CODE.name)
    assert (act.username, act.device_id, act.fingerprint) == ("alice", DEVICE_ID, fingerprint(1))
    assert (act.peer, act.request_id) == ("ipv4:192.0.2.1:4711", "request-7")
    signed = pb.SignedKeyRequest.FromString(act.evidence)
    assert (signed.key_request, signed.possession) == (key(1).key_request, key(1).possession)


async def test_each_way_in_which_a_key_enters_has_its_name(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(renewal(2, replaced=1, revision=2))
    await store.apply(change(key(3, revision=3, kind=pb.KEY_REQUEST_KIND_APPROVE)))
    await store.apply(change(key(4, revision=4, kind=pb.KEY_REQUEST_KIND_RESET, epoch=2), epoch=2))
    entered = [act.action for act in await acts(store)]
    assert entered == [Action.ENROLLED, Action.RENEWED, Action.APPROVED, Action.RESET_DONE]


async def test_each_key_that_a_change_revokes_is_entered_and_the_evidence_once(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(change(key(2, revision=2, device_id="b" * 16)))
    lost = pb.REVOCATION_REASON_LOST
    endings = tuple(Ending(fingerprint(number), pb.KEY_STATE_REVOKED, lost) for number in (2, 1))
    told = (EventDraft(pb.KEY_EVENT_KIND_REVOKED),)
    actor = replace(BY_DEVICE, evidence=b"signed revocation")
    await store.apply(Change("alice", 1, 3, CHANGED, told, actor, endings=endings))
    first, second = (await acts(store))[2:]
    assert (first.action, first.device_id, first.fingerprint, first.reason) == (
        Action.REVOKED,
        "b" * 16,
        fingerprint(2),
        lost,
    )
    assert (second.action, second.device_id, second.fingerprint) == (Action.REVOKED, DEVICE_ID, fingerprint(1))
    assert (first.evidence, second.evidence) == (b"signed revocation", b"")


async def test_resets_are_entered_as_announced_allowed_and_cancelled(store: Store) -> None:
    await store.apply(change(key(1)))
    for revision, reset_time in ((2, CHANGED + 5), (3, CHANGED), (4, 0)):
        told = (EventDraft(pb.KEY_EVENT_KIND_RESET_ANNOUNCED),)
        await store.apply(Change("alice", 1, revision, CHANGED, told, BY_CODE, reset_time=reset_time))
    done = [(act.action, act.revision) for act in await acts(store)]
    assert done[1:] == [(Action.RESET_ANNOUNCED, 2), (Action.RESET_ALLOWED, 3), (Action.RESET_CANCELLED, 4)]


async def test_a_code_is_entered_by_its_hash(store: Store) -> None:
    await store.add_code(CODE, code_act(CODE))
    assert await acts(store) == [code_act(CODE)]
    assert (await acts(store))[0].actor_kind == ActorKind.OPERATOR


async def test_what_was_refused_is_not_entered(store: Store) -> None:
    await store.apply(change(key(1)))
    with pytest.raises(RevisionTakenError):
        await store.apply(renewal(3, replaced=1, revision=9))
    assert len(await acts(store)) == 1


async def test_the_chain_holds_whatever_is_written_at_once(store: Store) -> None:
    codes = [replace(CODE, code_hash=bytes([number]) * 32) for number in range(8)]
    await asyncio.gather(
        *(store.apply(change(key(number, f"user{number}"))) for number in range(1, 9)),
        *(store.add_code(code, code_act(code)) for code in codes),
    )
    entries = await store.list_audit_entries(0, 100)
    assert [entry.sequence for entry in entries] == list(range(1, 17))
    assert verify_chain(BEGINNING, entries) == await store.audit_head()
    assert await store.newest_sequence() == 8, "an entry of the audit log is no key event"


async def test_an_empty_log_has_its_beginning_as_head(store: Store) -> None:
    assert await store.audit_head() == BEGINNING


async def test_entries_are_listed_by_user_and_time_and_page_by_page(store: Store) -> None:
    for number, name in enumerate(["alice", "bob", "alicia"], start=1):
        await store.apply(change(key(number, name), time=CHANGED + number))
    await store.apply(replace(renewal(4, replaced=1, revision=2), time=CHANGED + 4))
    assert [act.fingerprint for act in await acts(store, AuditFilter("alice"))] == [fingerprint(1), fingerprint(4)]
    between = AuditFilter(from_time=CHANGED + 2, until_time=CHANGED + 4)
    assert [act.username for act in await acts(store, between)] == ["bob", "alicia"]
    page = await store.list_audit_entries(1, 2)
    assert [entry.sequence for entry in page] == [2, 3]
