"""What every store of the CA must do; an adapter joins by one more parameter of the fixture."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event as sql_event

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.store import (
    Change,
    CodeUsedError,
    Ending,
    EventDraft,
    Identity,
    IdentityTakenError,
    KeyAlreadyKnownError,
    OneTimeCode,
    RevisionTakenError,
    UserSummary,
)
from keypost_services.ca.store_sql import SqlStore
from support.ca_changes import BY_CODE, BY_DEVICE, CHANGED, change, code_act, fingerprint, key, renewal

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from keypost_services.ca.store import Store

    Opener = Callable[[], AbstractAsyncContextManager[Store]]


async def test_a_change_is_found_whole(store: Store) -> None:
    await store.apply(change(key(1)))
    user = (await store.find_users(["alice", "bob"]))["alice"]
    assert (user.epoch, user.revision, user.keys) == (1, 1, (key(1),))
    assert await store.find_key(fingerprint(1)) == key(1)
    assert await store.find_key(fingerprint(2)) is None


async def test_a_change_without_a_key_steps_the_user(store: Store) -> None:
    await store.apply(change(key(1)))
    announced = (EventDraft(pb.KEY_EVENT_KIND_RESET_ANNOUNCED),)
    await store.apply(Change("alice", 1, 2, CHANGED, announced, BY_CODE, reset_time=CHANGED + 5))
    user = (await store.find_users(["alice"]))["alice"]
    assert (user.revision, user.reset_time, user.keys) == (2, CHANGED + 5, (key(1),))
    with pytest.raises(RevisionTakenError):
        await store.apply(Change("alice", 1, 2, CHANGED, announced, BY_CODE))
    await store.apply(change(key(2, revision=3)))
    assert (await store.find_users(["alice"]))["alice"].reset_time == 0
    assert [event.kind for event in await store.list_events(1, 10)] == [
        pb.KEY_EVENT_KIND_RESET_ANNOUNCED,
        pb.KEY_EVENT_KIND_ENROLLED,
    ]


@pytest.mark.parametrize(("said", "expected"), [(CHANGED - 5, CHANGED - 5), (CHANGED + 5, CHANGED), (None, CHANGED)])
async def test_a_key_that_had_ended_is_revoked_since_the_earlier_time(
    store: Store, said: int | None, expected: int
) -> None:
    await store.apply(change(key(1)))
    await store.apply(replace(renewal(2, 1, 2), time=CHANGED))
    ending = Ending(fingerprint(1), pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_COMPROMISED, since=said)
    revoked = (EventDraft(pb.KEY_EVENT_KIND_REVOKED),)
    await store.apply(Change("alice", 1, 3, CHANGED + 9, revoked, BY_DEVICE, endings=(ending,)))
    found = await store.find_key(fingerprint(1))
    assert found is not None
    assert (found.state, found.state_time) == (pb.KEY_STATE_REVOKED, expected)


async def test_a_good_key_is_revoked_since_when_it_is_said(store: Store) -> None:
    await store.apply(change(key(1)))
    ending = Ending(fingerprint(1), pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_COMPROMISED, since=CHANGED - 7)
    revoked = (EventDraft(pb.KEY_EVENT_KIND_REVOKED),)
    await store.apply(Change("alice", 1, 2, CHANGED + 9, revoked, BY_DEVICE, endings=(ending,)))
    found = await store.find_key(fingerprint(1))
    assert found is not None
    assert found.state_time == CHANGED - 7


async def test_only_users_asked_for_are_found(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(change(key(2, "bob")))
    await store.apply(change(key(3, "carol")))
    found = await store.find_users(["alice", "carol", "nobody"])
    assert {name: user.keys[0].fingerprint for name, user in found.items()} == {
        "alice": fingerprint(1),
        "carol": fingerprint(3),
    }


async def test_a_renewal_supersedes(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(renewal(2, replaced=1, revision=2))
    user = (await store.find_users(["alice"]))["alice"]
    assert user.revision == 2
    assert [(found.fingerprint, found.state, found.state_time) for found in user.keys] == [
        (fingerprint(1), pb.KEY_STATE_SUPERSEDED, CHANGED + 2),
        (fingerprint(2), pb.KEY_STATE_GOOD, CHANGED + 2),
    ]


async def test_a_revocation_keeps_its_reason(store: Store) -> None:
    await store.apply(change(key(1)))
    ending = Ending(fingerprint(1), pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_RESET)
    await store.apply(change(key(2, revision=2, epoch=2), endings=(ending,)))
    user = (await store.find_users(["alice"]))["alice"]
    assert user.epoch == 2
    assert (user.keys[0].state, user.keys[0].reason) == (pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_RESET)


async def test_a_superseded_key_that_is_revoked_has_ended_since_when_it_had(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(renewal(2, replaced=1, revision=2))
    reset = (pb.KEY_STATE_REVOKED, pb.REVOCATION_REASON_RESET)
    endings = tuple(Ending(fingerprint(number), *reset) for number in (1, 2))
    await store.apply(change(key(3, revision=3, epoch=2), endings=endings, time=CHANGED + 3))
    ended = (await store.find_users(["alice"]))["alice"].keys[:2]
    assert [(found.state, found.reason, found.state_time) for found in ended] == [
        (*reset, CHANGED + 2),
        (*reset, CHANGED + 3),
    ]


@pytest.mark.parametrize("state", [pb.KEY_STATE_GOOD, pb.KEY_STATE_SUPERSEDED, pb.KEY_STATE_REVOKED])
async def test_a_revoked_key_ends_no_more(store: Store, state: pb.KeyState.ValueType) -> None:
    await store.apply(change(key(1)))
    await store.apply(change(key(2, revision=2), endings=(Ending(fingerprint(1), pb.KEY_STATE_REVOKED),)))
    with pytest.raises(RevisionTakenError):
        await store.apply(change(key(3, revision=3), endings=(Ending(fingerprint(1), state),)))


@pytest.mark.parametrize("revision", [1, 3])
async def test_only_the_next_revision_applies(store: Store, revision: int) -> None:
    await store.apply(change(key(1)))
    with pytest.raises(RevisionTakenError):
        await store.apply(change(key(2, revision=revision)))
    await assert_untouched(store)


async def test_no_revision_but_the_first_applies_to_a_new_user(store: Store) -> None:
    with pytest.raises(RevisionTakenError):
        await store.apply(change(key(1, revision=2)))
    assert not await store.find_users(["alice"])


async def test_a_key_is_recorded_once_for_whomever(store: Store) -> None:
    await store.apply(change(key(1)))
    with pytest.raises(KeyAlreadyKnownError):
        await store.apply(change(key(1, "bob")))
    assert not await store.find_users(["bob"])
    await assert_untouched(store)


async def test_a_key_ends_once(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(renewal(2, replaced=1, revision=2))
    with pytest.raises(RevisionTakenError):
        await store.apply(renewal(3, replaced=1, revision=3))
    assert await store.find_key(fingerprint(3)) is None
    assert await store.newest_sequence() == 2


async def test_nobody_ends_the_key_of_another_user(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(change(key(2, "bob")))
    with pytest.raises(RevisionTakenError):
        await store.apply(renewal(3, replaced=1, revision=2, username="bob"))
    found = await store.find_key(fingerprint(1))
    assert found is not None
    assert found.state == pb.KEY_STATE_GOOD


async def test_users_are_listed_page_by_page(store: Store) -> None:
    for number, name in enumerate(["carol", "alice", "bob@example.org"], start=1):
        await store.apply(change(key(number, name)))
    await store.apply(renewal(9, replaced=2, revision=2))
    first = await store.list_users("", 2)
    assert first == [UserSummary("alice", 1, 2, 0, 1), UserSummary("bob@example.org", 1, 1, 0, 1)]
    assert [user.username for user in await store.list_users(first[-1].username, 2)] == ["carol"]
    assert await store.list_users("carol", 2) == []


async def assert_untouched(store: Store) -> None:
    """Nothing of a refused change has stayed."""
    assert [entry.act.revision for entry in await store.list_audit_entries(0, 10) if entry.act.revision] == [1]
    user = (await store.find_users(["alice"]))["alice"]
    assert (user.revision, user.keys) == (1, (key(1),))
    assert [event.sequence for event in await store.list_events(0, 10)] == [1]
    assert await store.newest_sequence() == 1


async def test_a_code_is_used_once(store: Store) -> None:
    code = OneTimeCode(b"h" * 32, "alice", CHANGED)
    await store.add_code(code, code_act(code))
    assert await store.find_code(code.code_hash) == code
    await store.apply(change(key(1), code_hash=code.code_hash))
    assert await store.find_code(code.code_hash) == replace(code, used_fingerprint=fingerprint(1))
    with pytest.raises(CodeUsedError):
        await store.apply(change(key(2, revision=2), code_hash=code.code_hash))
    await assert_untouched(store)


async def test_an_unknown_code_is_refused(store: Store) -> None:
    assert await store.find_code(b"x" * 32) is None
    with pytest.raises(CodeUsedError):
        await store.apply(change(key(1), code_hash=b"x" * 32))
    assert not await store.find_users(["alice"])


async def test_a_code_raced_for_is_used_once(store: Store) -> None:
    code = OneTimeCode(b"h" * 32, "alice", CHANGED)
    await store.add_code(code, code_act(code))
    changes = [change(key(number, f"user{number}"), code_hash=code.code_hash) for number in range(1, 9)]
    outcomes = await asyncio.gather(*map(store.apply, changes), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["CodeUsedError"] * 7 + ["list"]
    assert await store.newest_sequence() == 1


ISSUER = "https://id.example.org"
HERS = Identity("alice", ISSUER, "subject-alice")


async def test_the_first_identity_of_a_user_is_kept(store: Store) -> None:
    assert await store.find_identities(HERS) == []
    await store.apply(change(key(1), identity=HERS))
    assert await store.find_identities(HERS) == [HERS]
    await store.apply(change(key(2, revision=2), identity=HERS))
    assert await store.find_identities(HERS) == [HERS]


@pytest.mark.parametrize(
    "other",
    [
        Identity("alice", ISSUER, "another subject"),
        Identity("alice", "https://other.example.org", "subject-alice"),
        Identity("mallory", ISSUER, "subject-alice"),
    ],
    ids=["another subject", "another issuer", "another user"],
)
async def test_another_identity_is_refused_with_all_of_its_change(store: Store, other: Identity) -> None:
    await store.apply(change(key(1), identity=HERS))
    revision = 2 if other.username == "alice" else 1
    with pytest.raises(IdentityTakenError):
        await store.apply(change(key(2, other.username, revision), identity=other))
    assert await store.find_key(fingerprint(2)) is None
    assert await store.find_identities(other) == [HERS]
    assert await store.newest_sequence() == 1


async def test_two_users_are_found_by_what_they_share_with_an_identity(store: Store) -> None:
    theirs = Identity("bob", ISSUER, "subject-bob")
    await store.apply(change(key(1), identity=HERS))
    await store.apply(change(key(2, "bob"), identity=theirs))
    found = await store.find_identities(Identity("alice", ISSUER, "subject-bob"))
    assert sorted(found, key=lambda identity: identity.username) == [HERS, theirs]


async def test_a_subject_that_signs_in_as_two_users_at_once_is_one_of_them(store: Store) -> None:
    names = [f"user{number}" for number in range(4)]
    changes = [
        change(key(number, name), identity=Identity(name, ISSUER, "one")) for number, name in enumerate(names, start=1)
    ]
    outcomes = await asyncio.gather(*map(store.apply, changes), return_exceptions=True)
    assert sorted(map(type, outcomes), key=str) == sorted([list, *[IdentityTakenError] * 3], key=str)
    assert len(await store.find_users(names)) == 1


async def test_a_revision_raced_for_is_taken_once(store: Store) -> None:
    await store.apply(change(key(1)))
    changes = [renewal(number, replaced=1, revision=2) for number in range(2, 10)]
    outcomes = await asyncio.gather(*map(store.apply, changes), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["RevisionTakenError"] * 7 + ["list"]
    assert len((await store.find_users(["alice"]))["alice"].keys) == 2


async def test_events_have_no_gap_whatever_fails_beside_them(store: Store) -> None:
    good = [change(key(number, f"user{number}")) for number in range(1, 21)]
    refused = [change(key(number, f"user{number}", revision=5)) for number in range(1, 21)]
    mixed = [item for pair in zip(good, refused, strict=True) for item in pair]
    await asyncio.gather(*map(store.apply, mixed), return_exceptions=True)
    events = await store.list_events(0, 100)
    assert [event.sequence for event in events] == list(range(1, 21))
    assert {event.username for event in events} == {f"user{number}" for number in range(1, 21)}


async def test_who_reads_while_others_write_skips_nothing(store: Store) -> None:
    async def read() -> list[int]:
        seen: list[int] = []
        async with asyncio.timeout(20):
            while len(seen) < 40:
                seen += [event.sequence for event in await store.list_events(seen[-1] if seen else 0, 7)]
        return seen

    writing = [store.apply(change(key(number, f"user{number}"))) for number in range(1, 41)]
    seen, *_ = await asyncio.gather(read(), *writing)
    assert seen == list(range(1, 41))


async def test_an_event_says_what_happened(store: Store) -> None:
    await store.apply(change(key(1)))
    await store.apply(renewal(2, replaced=1, revision=2))
    (event,) = await store.list_events(1, 10)
    assert (event.sequence, event.username, event.revision) == (2, "alice", 2)
    assert event.kind == pb.KEY_EVENT_KIND_RENEWED
    assert (event.fingerprint, event.ended_fingerprint) == (fingerprint(2), fingerprint(1))
    assert event.create_time == CHANGED + 2


async def test_the_events_of_one_change_follow_each_other(store: Store) -> None:
    drafts = tuple(EventDraft(pb.KEY_EVENT_KIND_REVOKED, fingerprint(number)) for number in (7, 8, 9))
    await store.apply(change(key(1), events=drafts))
    events = await store.list_events(0, 2)
    assert [(event.sequence, event.fingerprint) for event in events] == [(1, fingerprint(7)), (2, fingerprint(8))]
    assert await store.newest_sequence() == 3


async def test_without_events_the_newest_is_none(store: Store) -> None:
    assert await store.newest_sequence() == 0
    assert not await store.list_events(0, 10)


async def test_all_processes_share_one_secret(open_store: Opener) -> None:
    async with open_store() as one, open_store() as other:
        assert await one.keep_secret("nonces", b"first") == b"first"
        assert await other.keep_secret("nonces", b"second") == b"first"
        assert await one.keep_secret("others", b"third") == b"third"


async def test_two_processes_do_not_lose_each_others_changes(open_store: Opener) -> None:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store()) for _ in range(2)]
        changes = [change(key(number, f"user{number}")) for number in range(1, 21)]
        await asyncio.gather(*(stores[place % 2].apply(item) for place, item in enumerate(changes)))
        assert [event.sequence for event in await stores[0].list_events(0, 100)] == list(range(1, 21))


async def test_a_restart_keeps_everything(open_store: Opener) -> None:
    async with open_store() as store:
        await store.apply(change(key(1)))
        before = await store.find_users(["alice"]), await store.list_events(0, 9)
    async with open_store() as store:
        assert (await store.find_users(["alice"]), await store.list_events(0, 9)) == before
        assert await store.newest_sequence() == 1


async def test_a_failure_at_the_last_moment_leaves_nothing(open_store: Opener) -> None:
    async with open_store() as store:
        assert isinstance(store, SqlStore)

        def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "INSERT INTO audit_entries" in statement:
                raise OSError("the disk is full")

        sql_event.listen(store._engine.sync_engine, "before_cursor_execute", fail)
        with pytest.raises(OSError, match="disk is full"):
            await store.apply(change(key(1)))
        sql_event.remove(store._engine.sync_engine, "before_cursor_execute", fail)
        assert not await store.find_users(["alice"])
        await store.apply(change(key(1)))
        assert await store.newest_sequence() == 1


async def test_good_keys_are_counted_by_when_they_end(store: Store) -> None:
    await store.apply(change(key(1)))
    end = key(1).expire_time
    assert await store.count_ending(end, end + 1) == 1
    assert [await store.count_ending(end - 10, end), await store.count_ending(end + 1, end + 10)] == [0, 0]
    # The index has good keys alone, and says so by number.
    assert pb.KEY_STATE_GOOD == 1
    await store.apply(replace(renewal(2, 1, 2), time=CHANGED))
    assert await store.count_ending(0, end) + await store.count_ending(end, end + 1) == (key(2).expire_time <= end)
