"""What every store of the CA tells of one-time codes, and how it ends them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY, HOUR
from keypost_services.ca.acts import codes_withdrawn
from keypost_services.ca.audit import BEGINNING, Action, Actor, ActorKind, AuditBrokenError, Origin, chain
from keypost_services.ca.store import ENDED, CodeFilter, CodeUsedError, DrawnCode, OneTimeCode
from support.ca_changes import CHANGED, change, code_act, fingerprint, key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.ca.audit import Act
    from keypost_services.ca.store import Store

LATER = CHANGED + HOUR
OPEN = CodeFilter(open_at=LATER)
ADA = Actor(ActorKind.ADMINISTRATOR, "ada")


def code(number: int, username: str = "alice", expire_time: int = CHANGED + DAY) -> OneTimeCode:
    """Return a code whose hash begins with a number of 8 bytes."""
    return OneTimeCode(number.to_bytes(8, "big") + b"h" * 24, username, expire_time)


def id_of(number: int) -> bytes:
    return number.to_bytes(8, "big")


def withdrawal(username: str = "alice", now: int = LATER) -> Act:
    return codes_withdrawn(username, ADA, now, Origin("ipv4:192.0.2.1:4711", "request-7"))


async def add(store: Store, *codes: OneTimeCode) -> None:
    for one in codes:
        await store.add_code(one, code_act(one))


async def found(store: Store, wanted: CodeFilter) -> Sequence[OneTimeCode]:
    return [drawn.code for drawn in await store.list_codes(wanted, 10)]


async def test_open_codes_are_listed_in_order_and_page_by_page(store: Store) -> None:
    codes = [code(4, "bob"), code(3), code(1, "carol"), code(2, "bob"), code(9, "bob", CHANGED + HOUR + 1)]
    await add(store, *codes)
    in_order = [codes[1], codes[4], codes[3], codes[0], codes[2]]
    assert await found(store, OPEN) == in_order
    pages: list[OneTimeCode] = []
    while page := await store.list_codes(OPEN, 2, pages[-1] if pages else None):
        pages += [drawn.code for drawn in page]
    assert pages == in_order
    assert await found(store, replace(OPEN, username="bob")) == in_order[1:4]
    assert await found(store, replace(OPEN, username="dave")) == []


async def test_a_code_is_listed_with_who_drew_it_and_when(store: Store) -> None:
    await add(store, code(1))
    by_ada = replace(code_act(code(2)), create_time=LATER, actor_kind=ActorKind.ADMINISTRATOR, actor="ada")
    await store.add_code(code(2), by_ada)
    assert await store.list_codes(OPEN, 10) == [
        DrawnCode(code(1), CHANGED, ActorKind.OPERATOR, ""),
        DrawnCode(code(2), LATER, ActorKind.ADMINISTRATOR, "ada"),
    ]


async def test_a_code_of_which_the_log_does_not_tell_is_listed_all_the_same(store: Store) -> None:
    """It may be of another user's name there, or of another action."""
    await store.add_code(code(1), code_act(code(1, "bob")))
    await store.add_code(code(2), replace(code_act(code(2)), action=Action.ENROLLED))
    assert await store.list_codes(OPEN, 10) == [DrawnCode(code(number), 0, "", "") for number in (1, 2)]


async def test_what_is_used_withdrawn_or_expired_is_not_open_and_found_all_the_same(store: Store) -> None:
    await add(store, code(1), code(2), code(3, expire_time=LATER), code(4))
    await store.apply(change(key(1), code_hash=code(1).code_hash))
    await store.withdraw_codes(withdrawal(), id_of(2))
    assert await found(store, OPEN) == [code(4)]
    used = replace(code(1), used_fingerprint=fingerprint(1))
    for number, kept in enumerate((used, replace(code(2), expire_time=ENDED), code(3, expire_time=LATER)), start=1):
        assert await found(store, CodeFilter("alice", id_of(number))) == [kept]
    assert await found(store, CodeFilter("bob", id_of(1))) == []


async def test_a_code_that_was_withdrawn_is_used_for_nothing_and_entered(store: Store) -> None:
    await add(store, code(1), code(2))
    (entry,) = await store.withdraw_codes(withdrawal(), id_of(1))
    assert entry == (await store.list_audit_entries(2, 10))[0]
    assert entry.act == replace(withdrawal(), evidence=code(1).code_hash)
    assert (entry.act.action, entry.act.actor_kind, entry.act.actor) == (
        Action.CODE_WITHDRAWN,
        ActorKind.ADMINISTRATOR,
        "ada",
    )
    with pytest.raises(CodeUsedError):
        await store.apply(change(key(1), code_hash=code(1).code_hash))
    assert not await store.find_users(["alice"])
    await store.apply(change(key(2), code_hash=code(2).code_hash))
    assert await store.withdraw_codes(withdrawal(), id_of(1)) == ()


async def test_all_open_codes_of_a_user_are_withdrawn_and_no_others(store: Store) -> None:
    expired, used, others = code(3, expire_time=LATER), code(4), code(5, "bob")
    await add(store, code(2), code(1), expired, used, others)
    await store.apply(change(key(1), code_hash=used.code_hash))
    before = len(await store.list_audit_entries(0, 20))
    entries = await store.withdraw_codes(withdrawal())
    assert [entry.act.evidence for entry in entries] == [code(1).code_hash, code(2).code_hash]
    assert await store.list_audit_entries(before, 20) == list(entries)
    assert await store.find_code(expired.code_hash) == expired
    assert await store.find_code(used.code_hash) == replace(used, used_fingerprint=fingerprint(1))
    assert await found(store, OPEN) == [others]
    assert await store.withdraw_codes(withdrawal()) == ()
    assert len(await store.list_audit_entries(0, 20)) == before + 2


async def test_a_withdrawal_is_made_again_although_the_code_was_ended(store: Store) -> None:
    """Of a code that is made again after a restore nobody knows until when it was good."""
    ended = code(1, expire_time=ENDED)
    await add(store, ended)
    act = replace(withdrawal(), evidence=ended.code_hash)
    with pytest.raises(AuditBrokenError, match="came out otherwise"):
        await store.withdraw_codes(act, act.evidence, chain(BEGINNING, [act]))
    expected = chain(await store.audit_head(), [act])
    assert await store.withdraw_codes(act, act.evidence, expected) == expected
    assert await store.list_audit_entries(1, 10) == expected


async def test_of_use_and_withdrawal_at_once_one_wins(store: Store) -> None:
    codes = [code(number, f"user{number}") for number in range(1, 13)]
    await add(store, *codes)
    using = (store.apply(change(key(n, one.username), code_hash=one.code_hash)) for n, one in enumerate(codes, start=1))
    withdrawing = (store.withdraw_codes(withdrawal(one.username)) for one in codes)
    # In turns, so that neither of the two is always there first.
    pairs = [pair if n % 2 else pair[::-1] for n, pair in enumerate(zip(using, withdrawing, strict=True))]
    outcomes = await asyncio.gather(*(call for pair in pairs for call in pair), return_exceptions=True)
    for n, one in enumerate(codes):
        pair = outcomes[2 * n : 2 * n + 2]
        used, withdrawn = pair if n % 2 else pair[::-1]
        if await store.find_users([one.username]):
            assert (isinstance(used, list), withdrawn) == (True, ())
        else:
            assert isinstance(withdrawn, list), withdrawn
            assert (type(used), len(withdrawn)) == (CodeUsedError, 1)
