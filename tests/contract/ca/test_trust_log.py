"""The realm's own keys in the audit log of every store of the CA: each trust statement once, with what it changes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import fingerprint, sha256
from keypost_services.ca.audit import BEGINNING, Action, ActorKind, AuditBrokenError, Origin, verify_chain
from keypost_services.ca.store import AuditFilter, InstalledTrust
from support.ca_changes import CHANGED, change, key
from support.trust_statements import RECORD, ROOT, public_key_of, trust_statement

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from keypost_services.ca.audit import Act
    from keypost_services.ca.store import Store

    Opener = Callable[[], "AbstractAsyncContextManager[Store]"]

HERE = Origin("host:ca-0")
NEW_ROOT, NEW_RECORD = 3, 4


def installed(signed: pb.SignedRealmTrust) -> InstalledTrust:
    return InstalledTrust(signed, CHANGED, HERE)


def told(acts: list[Act]) -> list[tuple[str, int, bytes]]:
    return [(act.action, act.revision, act.fingerprint) for act in acts]


def of(seed: int) -> bytes:
    return fingerprint(public_key_of(seed))


async def acts_of(store: Store, sequence: int) -> list[Act]:
    """Return what is told of the statement of a sequence, but for its own entry."""
    acts = [entry.act for entry in await store.list_audit_entries(0, 100)]
    return [act for act in acts if act.revision == sequence and act.action != Action.TRUST_INSTALLED]


async def test_the_first_statement_is_entered_with_who_what_which_keys_and_from_where(store: Store) -> None:
    signed = trust_statement()
    entries = list(await store.enter_trust(installed(signed)))
    assert entries == await store.list_audit_entries(0, 100)
    assert told([entry.act for entry in entries]) == [
        (Action.TRUST_INSTALLED, 1, sha256(signed.realm_trust)),
        (Action.ROOT_KEY_ADDED, 1, of(ROOT)),
        (Action.RECORD_KEY_ADDED, 1, of(RECORD)),
    ]
    for act in (entry.act for entry in entries):
        assert (act.actor_kind, act.actor) == (ActorKind.ROOT_KEY, of(ROOT).hex())
        assert (act.create_time, act.peer, act.request_id) == (CHANGED, HERE.peer, "")
        assert (act.username, act.device_id, act.reason) == ("", "", 0)
    assert pb.SignedRealmTrust.FromString(entries[0].act.evidence) == signed
    assert [entry.act.evidence for entry in entries[1:]] == [b"", b""]


async def test_a_later_statement_is_entered_with_the_keys_that_it_changes(store: Store) -> None:
    await store.enter_trust(installed(trust_statement()))
    both = trust_statement(2, roots=(ROOT, NEW_ROOT), record_keys={RECORD: 400, NEW_RECORD: 500})
    await store.enter_trust(installed(both))
    extended = trust_statement(3, roots=(NEW_ROOT,), record_keys={RECORD: 600, NEW_RECORD: 500}, signed_by=NEW_ROOT)
    await store.enter_trust(installed(extended))
    retired = trust_statement(4, roots=(NEW_ROOT,), record_keys={NEW_RECORD: 500}, signed_by=NEW_ROOT)
    await store.enter_trust(installed(retired))
    assert told(await acts_of(store, 2)) == [
        (Action.ROOT_KEY_ADDED, 2, of(NEW_ROOT)),
        (Action.RECORD_KEY_ADDED, 2, of(NEW_RECORD)),
    ]
    assert told(await acts_of(store, 3)) == [
        (Action.ROOT_KEY_REMOVED, 3, of(ROOT)),
        (Action.RECORD_KEY_CHANGED, 3, of(RECORD)),
    ]
    assert told(await acts_of(store, 4)) == [(Action.RECORD_KEY_RETIRED, 4, of(RECORD))]
    assert {act.actor for act in await acts_of(store, 3)} == {of(NEW_ROOT).hex()}


async def test_a_statement_is_entered_once_whoever_takes_it_up_again(store: Store) -> None:
    roots = (ROOT, NEW_ROOT)
    entered = await store.enter_trust(installed(trust_statement(roots=roots)))
    assert len(entered) == 4
    assert await store.enter_trust(installed(trust_statement(roots=roots))) == ()
    # The same statement, though another of its root keys signed it.
    assert await store.enter_trust(installed(trust_statement(roots=roots, signed_by=NEW_ROOT))) == ()
    await store.enter_trust(installed(trust_statement(2, roots=roots)))
    assert await store.enter_trust(installed(trust_statement(roots=roots))) == ()
    assert len(await store.list_audit_entries(0, 100)) == 5


async def test_replicas_that_take_up_a_statement_at_once_enter_it_once(open_store: Opener) -> None:
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(open_store()) for _ in range(2)]
        statements = [installed(trust_statement(number)) for number in (1, 2)]
        answers = await asyncio.gather(
            *(replica.enter_trust(statement) for statement in statements for replica in replicas * 3),
            *(replica.apply(change(key(place, f"user{place}"))) for place, replica in enumerate(replicas, 1)),
        )
        entries = await replicas[0].list_audit_entries(0, 100)
        head = await replicas[1].audit_head()
    assert verify_chain(BEGINNING, entries) == head
    statements_told = [entry.act.revision for entry in entries if entry.act.action == Action.TRUST_INSTALLED]
    assert sorted(statements_told) == [1, 2]
    # Who entered one is told of it, and nobody else is.
    assert sorted(entry.sequence for answer in answers for entry in answer) == list(range(1, len(entries) + 1))


async def test_statements_may_be_taken_up_out_of_their_order(store: Store) -> None:
    for number, record_keys in ((1, {2: 400}), (3, {4: 400}), (2, {2: 400, 4: 400})):
        await store.enter_trust(installed(trust_statement(number, record_keys=record_keys)))
    assert told(await acts_of(store, 3)) == [(Action.RECORD_KEY_ADDED, 3, of(4)), (Action.RECORD_KEY_RETIRED, 3, of(2))]
    assert told(await acts_of(store, 2)) == [(Action.RECORD_KEY_ADDED, 2, of(4))]


async def test_two_statements_of_one_sequence_are_both_entered(store: Store) -> None:
    await store.enter_trust(installed(trust_statement()))
    for record_key in (NEW_RECORD, RECORD):
        await store.enter_trust(installed(trust_statement(2, record_keys={record_key: 500})))
    assert told(await acts_of(store, 2)) == [
        (Action.RECORD_KEY_ADDED, 2, of(NEW_RECORD)),
        (Action.RECORD_KEY_RETIRED, 2, of(RECORD)),
        (Action.RECORD_KEY_CHANGED, 2, of(RECORD)),
    ]


async def test_what_contradicts_a_statement_is_one_above_it_or_another_of_its_sequence(store: Store) -> None:
    first, second, fork = trust_statement(), trust_statement(2), trust_statement(2, record_keys={NEW_RECORD: 500})
    assert await contradicting(store, first) is None
    await store.enter_trust(installed(first))
    await store.enter_trust(installed(second))
    assert await contradicting(store, first) == sha256(second.realm_trust)
    assert await contradicting(store, second) is None
    assert await contradicting(store, fork) == sha256(second.realm_trust), "before it is entered"
    await store.enter_trust(installed(fork))
    assert await contradicting(store, fork) == sha256(second.realm_trust)
    assert await contradicting(store, second) == await contradicting(store, first) == sha256(fork.realm_trust)
    third = trust_statement(3)
    await store.enter_trust(installed(third))
    assert await contradicting(store, third) is None, "it is above both"
    assert await contradicting(store, second) == sha256(third.realm_trust)


async def test_a_statement_that_another_root_key_signed_contradicts_nothing(store: Store) -> None:
    roots = (ROOT, NEW_ROOT)
    await store.enter_trust(installed(trust_statement(roots=roots)))
    assert await contradicting(store, trust_statement(roots=roots, signed_by=NEW_ROOT)) is None


async def contradicting(store: Store, signed: pb.SignedRealmTrust) -> bytes | None:
    """Return the hash of the statement that contradicts one."""
    trust = installed(signed)
    entry = await store.find_contradicting_trust(trust.sequence, trust.hash)
    return None if entry is None else entry.act.fingerprint


async def test_the_realms_keys_are_no_users_and_no_key_event(store: Store) -> None:
    await store.enter_trust(installed(trust_statement()))
    await store.apply(change(key(1)))
    assert [entry.sequence for entry in await store.list_audit_entries(0, 100, AuditFilter("alice"))] == [4]
    assert await store.newest_sequence() == 1


async def test_entries_that_are_made_again_are_those_that_were_written_or_none(store: Store) -> None:
    first, second = installed(trust_statement()), installed(trust_statement(2, record_keys={NEW_RECORD: 500}))
    written = await store.enter_trust(first)
    with pytest.raises(AuditBrokenError, match="came out otherwise"):
        await store.enter_trust(second, written)
    assert await store.list_audit_entries(0, 100) == list(written)
