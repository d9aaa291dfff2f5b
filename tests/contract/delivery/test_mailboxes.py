"""What every adapter of the mailboxes does; the adapters are listed in ``mailboxes``."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY
from keypost.protocol.identifiers import Address
from keypost_services.delivery.mailboxes import (
    BEGINNING,
    Acceptance,
    Backlog,
    Claim,
    Load,
    Mailboxes,
    MailboxesUnavailableError,
    MailboxLimits,
    Outcome,
    Page,
    ReceiverDisplacedError,
    Waiting,
    position,
)
from support.mailboxes import (
    ALICE,
    ALICE_TABLET,
    BOB,
    BOB_TABLET,
    LIMITS,
    NOW,
    OpenMailboxes,
    append,
    foresee,
    new_name,
    open_mailboxes,
    posting,
)
from support.valkey import running_valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from redis.asyncio import Redis

CAROL = Address("carol", "eeeeeeeeeeeeeeee")
ALL = Page(256)
CLAIM = Claim(BOB, "stream-1", 1)


@pytest.fixture(scope="module", params=["one", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server, or a cluster of three masters with a replica each."""
    if request.param == "cluster":
        yield request.getfixturevalue("cluster").url
        return
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def opened(url: str) -> AsyncIterator[OpenMailboxes]:
    async with open_mailboxes(url) as opened:
        await opened.clear()
        yield opened


@pytest.fixture
async def mailboxes(opened: OpenMailboxes) -> Mailboxes:
    return opened.mailboxes


@pytest.fixture
async def shared(url: str) -> AsyncIterator[Mailboxes]:
    """Mailboxes of 10 messages and 1,000 bytes, of which one sending user may take up 4 and 400."""
    async with open_mailboxes(url, limits=replace(LIMITS, sender_percent=40)) as opened:
        await opened.clear()
        yield opened.mailboxes


def _outcomes(result: Mapping[Address, Acceptance] | MailboxesUnavailableError) -> dict[Address, Outcome]:
    assert not isinstance(result, MailboxesUnavailableError)
    return {address: acceptance.outcome for address, acceptance in result.items()}


async def everything(mailboxes: Mailboxes, claim: Claim = CLAIM) -> list[Waiting]:
    return list(await mailboxes.read(claim, BEGINNING, ALL, 0))


async def test_what_is_appended_waits_in_order(mailboxes: Mailboxes) -> None:
    for body in (b"1", b"2", b"3"):
        acceptances = await append(mailboxes, posting(body, accept_time=NOW))
        assert acceptances[BOB].outcome is Outcome.APPENDED
        assert acceptances[BOB].accept_time == NOW
    found = await everything(mailboxes)
    assert [waiting.envelope for waiting in found] == [b"1", b"2", b"3"]
    assert [waiting.accept_time for waiting in found] == [NOW] * 3
    positions = [position(waiting.delivery_id) for waiting in found]
    assert positions == sorted(set(positions))


async def test_many_are_appended_at_once_in_their_order(mailboxes: Mailboxes) -> None:
    name = new_name()
    postings = [
        posting(b"1", BOB, BOB_TABLET),
        posting(b"2", name=name),
        posting(b"2", name=name),
        posting(b"3", name=name),
        posting(b"4", BOB_TABLET, BOB),
    ]
    results = await mailboxes.append_all(postings)
    assert [_outcomes(result) for result in results] == [
        {BOB: Outcome.APPENDED, BOB_TABLET: Outcome.APPENDED},
        {BOB: Outcome.APPENDED},
        {BOB: Outcome.DUPLICATE},
        {BOB: Outcome.ID_USED},
        {BOB_TABLET: Outcome.APPENDED, BOB: Outcome.APPENDED},
    ]
    assert [waiting.envelope for waiting in await everything(mailboxes)] == [b"1", b"2", b"4"]
    tablet = Claim(BOB_TABLET, "stream-1", 1)
    assert [waiting.envelope for waiting in await everything(mailboxes, tablet)] == [b"1", b"4"]
    assert await mailboxes.append_all([]) == []


async def test_who_is_refused_for_want_of_room_gets_nothing_past_it_by_the_same_call(mailboxes: Mailboxes) -> None:
    known = posting(b"1" * 500)
    postings = [
        known,
        posting(b"2" * 600, BOB, BOB_TABLET),  # no room at the one
        posting(b"3"),
        posting(b"4", BOB_TABLET),
        known,
        posting(b"5", name=new_name(CAROL)),
    ]
    expected = [
        {BOB: Outcome.APPENDED},
        {BOB: Outcome.FULL, BOB_TABLET: Outcome.APPENDED},
        {BOB: Outcome.FULL},
        {BOB_TABLET: Outcome.APPENDED},
        {BOB: Outcome.DUPLICATE},
        {BOB: Outcome.APPENDED},
    ]
    assert [_outcomes(result) for result in await mailboxes.foresee_all(postings)] == expected
    assert await mailboxes.waiting(BOB) == Load(0, 0)
    assert [_outcomes(result) for result in await mailboxes.append_all(postings)] == expected
    assert await mailboxes.waiting(BOB) == Load(2, 501)
    assert _outcomes((await mailboxes.append_all([posting(b"3")]))[0]) == {BOB: Outcome.APPENDED}


async def test_a_call_counts_what_it_has_put_in_itself(shared: Mailboxes) -> None:
    postings = [posting(b"x", accept_time=NOW + number) for number in range(6)]
    postings += [posting(b"y", name=new_name(CAROL)) for _ in range(3)]
    expected = [Outcome.APPENDED] * 4 + [Outcome.SHARE_FULL] * 2 + [Outcome.APPENDED] * 3
    for judge in (shared.foresee_all, shared.append_all):
        assert [_outcomes(result)[BOB] for result in await judge(postings)] == expected
    assert await shared.waiting(BOB) == Load(7, 7)


async def test_old_ones_make_room_within_a_call(mailboxes: Mailboxes) -> None:
    await mailboxes.append_all([posting(b"old", accept_time=NOW) for _ in range(10)])
    later = NOW + 30 * DAY
    postings = [posting(b"new", accept_time=later), posting(b"new", accept_time=later + 1)]
    outcomes = [_outcomes(result)[BOB] for result in await mailboxes.append_all(postings)]
    assert (outcomes, await mailboxes.waiting(BOB)) == ([Outcome.APPENDED] * 2, Load(2, 6))


async def test_more_at_once_than_a_call_takes_is_a_mistake(mailboxes: Mailboxes) -> None:
    with pytest.raises(ValueError, match="512"):
        await mailboxes.append_all([posting(b"x")] * 513)


async def test_order_holds_when_the_clock_of_a_replica_is_behind(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1", accept_time=NOW))
    await append(mailboxes, posting(b"2", accept_time=NOW - 5_000))
    found = await everything(mailboxes)
    assert [(waiting.envelope, waiting.accept_time) for waiting in found] == [(b"1", NOW), (b"2", NOW - 5_000)]


async def test_the_same_bytes_again_are_a_duplicate_with_the_first_accept_time(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"x", name=name))
    again = await append(mailboxes, posting(b"x", name=name, accept_time=NOW + 77))
    assert (again[BOB].outcome, again[BOB].accept_time) == (Outcome.DUPLICATE, NOW)
    assert len(await everything(mailboxes)) == 1


async def test_other_bytes_under_a_name_are_refused(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"x", name=name))
    other = await append(mailboxes, posting(b"y", name=name))
    assert other[BOB].outcome is Outcome.ID_USED
    assert [waiting.envelope for waiting in await everything(mailboxes)] == [b"x"]


async def test_names_are_per_sending_device_and_mailbox(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"x", name=name))
    same_id_of_another = new_name(BOB_TABLET).__class__(BOB_TABLET, name.message_id)
    assert (await append(mailboxes, posting(b"y", name=same_id_of_another)))[BOB].outcome is Outcome.APPENDED
    partly = await append(mailboxes, posting(b"x", BOB, BOB_TABLET, name=name))
    assert partly[BOB].outcome is Outcome.DUPLICATE
    assert partly[BOB_TABLET].outcome is Outcome.APPENDED


async def test_a_name_stays_used_after_the_acknowledgement(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"x", name=name))
    await mailboxes.acknowledge(BOB, [(await everything(mailboxes))[0].delivery_id])
    assert (await append(mailboxes, posting(b"x", name=name)))[BOB].outcome is Outcome.DUPLICATE
    assert await everything(mailboxes) == []


async def test_a_name_is_forgotten_after_the_mailbox_age(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"x", name=name))
    late = posting(b"y", name=name, accept_time=NOW + 30 * DAY)
    assert (await append(mailboxes, late))[BOB].outcome is Outcome.APPENDED


async def test_many_at_once_under_one_name_are_stored_once(mailboxes: Mailboxes) -> None:
    name = new_name()
    answers = await asyncio.gather(*(append(mailboxes, posting(b"x", name=name)) for _ in range(50)))
    outcomes = [answer[BOB].outcome for answer in answers]
    assert outcomes.count(Outcome.APPENDED) == 1
    assert outcomes.count(Outcome.DUPLICATE) == 49
    assert len(await everything(mailboxes)) == 1


async def test_find_names_the_mailboxes_that_know_a_message(mailboxes: Mailboxes) -> None:
    sent = posting(b"x", accept_time=NOW)
    await append(mailboxes, sent)
    assert await mailboxes.find(sent.name, [BOB, BOB_TABLET], NOW) == {BOB: sent.digest}
    assert await mailboxes.find(sent.name, [BOB, BOB_TABLET], NOW + 1) == {}
    assert await mailboxes.find(new_name(), [BOB], 0) == {}


async def test_full_by_count(mailboxes: Mailboxes) -> None:
    for _ in range(10):
        await append(mailboxes, posting(b"x"))
    refused = posting(b"x")
    assert (await append(mailboxes, refused))[BOB].outcome is Outcome.FULL
    assert await mailboxes.find(refused.name, [BOB], 0) == {}
    await mailboxes.acknowledge(BOB, [(await everything(mailboxes))[0].delivery_id])
    assert (await append(mailboxes, refused))[BOB].outcome is Outcome.APPENDED


async def test_what_append_would_say_is_foreseen_and_nothing_appended(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"known", BOB, name=name, accept_time=NOW))
    for _ in range(10):
        await append(mailboxes, posting(b"x", BOB_TABLET, accept_time=NOW))
    foreseen = await foresee(mailboxes, posting(b"new", ALICE_TABLET, BOB, BOB_TABLET, accept_time=NOW + 1))
    assert {address: acceptance.outcome for address, acceptance in foreseen.items()} == {
        ALICE_TABLET: Outcome.APPENDED,
        BOB: Outcome.APPENDED,
        BOB_TABLET: Outcome.FULL,
    }
    for body, outcome in ((b"known", Outcome.DUPLICATE), (b"other", Outcome.ID_USED)):
        foreseen = await foresee(mailboxes, posting(body, BOB, name=name, accept_time=NOW + 1))
        assert (foreseen[BOB].outcome, foreseen[BOB].accept_time) == (outcome, NOW)
    assert (await foresee(mailboxes, posting(b"x" * 1_001)))[BOB].outcome is Outcome.FULL
    assert (await mailboxes.waiting(BOB), await mailboxes.waiting(ALICE_TABLET)) == (Load(1, 5), Load(0, 0))


async def test_what_is_too_old_takes_no_room_in_what_is_foreseen(mailboxes: Mailboxes) -> None:
    for _ in range(10):
        await append(mailboxes, posting(b"x", accept_time=NOW))
    foreseen = await foresee(mailboxes, posting(b"y", accept_time=NOW + 30 * DAY + 1))
    assert foreseen[BOB].outcome is Outcome.APPENDED


async def test_full_by_bytes(mailboxes: Mailboxes) -> None:
    assert (await append(mailboxes, posting(b"x" * 600)))[BOB].outcome is Outcome.APPENDED
    assert (await append(mailboxes, posting(b"x" * 401)))[BOB].outcome is Outcome.FULL
    assert (await append(mailboxes, posting(b"x" * 400)))[BOB].outcome is Outcome.APPENDED
    assert await mailboxes.waiting(BOB) == Load(2, 1000)


async def test_many_at_once_do_not_overfill(mailboxes: Mailboxes) -> None:
    answers = await asyncio.gather(*(append(mailboxes, posting(b"x")) for _ in range(30)))
    assert [answer[BOB].outcome for answer in answers].count(Outcome.APPENDED) == 10
    assert await mailboxes.waiting(BOB) == Load(10, 10)


async def test_one_sending_user_takes_up_no_more_than_his_share(shared: Mailboxes) -> None:
    devices = (ALICE, ALICE_TABLET)
    outcomes = [
        (await append(shared, posting(b"x", name=new_name(devices[number % 2]))))[BOB].outcome for number in range(5)
    ]
    assert outcomes == [Outcome.APPENDED] * 4 + [Outcome.SHARE_FULL]
    assert (await foresee(shared, posting(b"x")))[BOB].outcome is Outcome.SHARE_FULL
    assert (await append(shared, posting(b"x", BOB_TABLET)))[BOB_TABLET].outcome is Outcome.APPENDED
    for _ in range(4):
        assert (await append(shared, posting(b"x", name=new_name(CAROL))))[BOB].outcome is Outcome.APPENDED
    assert (await append(shared, posting(b"x" * 1_001, name=new_name(CAROL))))[BOB].outcome is Outcome.FULL


async def test_what_is_acknowledged_or_too_old_leaves_the_share(shared: Mailboxes) -> None:
    for _ in range(4):
        await append(shared, posting(b"x", accept_time=NOW))
    await append(shared, posting(b"other", name=new_name(CAROL), accept_time=NOW))
    first, *_ = await everything(shared)
    assert await shared.acknowledge(BOB, [first.delivery_id, first.delivery_id]) == 1
    assert (await append(shared, posting(b"x", accept_time=NOW + 1)))[BOB].outcome is Outcome.APPENDED
    assert (await append(shared, posting(b"x", accept_time=NOW + 1)))[BOB].outcome is Outcome.SHARE_FULL
    # All of the first millisecond is too old by now: one of Alice's is left.
    outcomes = [(await append(shared, posting(b"x", accept_time=NOW + 1 + 30 * DAY)))[BOB].outcome for _ in range(4)]
    assert outcomes == [Outcome.APPENDED] * 3 + [Outcome.SHARE_FULL]
    await shared.acknowledge(BOB, [waiting.delivery_id for waiting in await everything(shared)])
    outcomes = [(await append(shared, posting(b"x")))[BOB].outcome for _ in range(5)]
    assert outcomes == [Outcome.APPENDED] * 4 + [Outcome.SHARE_FULL]


async def test_a_share_is_of_bytes_too(shared: Mailboxes) -> None:
    assert (await append(shared, posting(b"x" * 401)))[BOB].outcome is Outcome.SHARE_FULL
    assert (await append(shared, posting(b"x" * 300)))[BOB].outcome is Outcome.APPENDED
    assert (await append(shared, posting(b"x" * 101)))[BOB].outcome is Outcome.SHARE_FULL
    assert (await append(shared, posting(b"x" * 400, name=new_name(CAROL))))[BOB].outcome is Outcome.APPENDED
    assert await shared.waiting(BOB) == Load(2, 700)


async def test_what_a_version_without_shares_left_behind_is_read_and_acknowledged(opened: OpenMailboxes) -> None:
    await opened.client_of(BOB).xadd(f"keypost:{{{BOB}}}:waiting", {"t": NOW, "e": b"old"}, id=f"{NOW}-0")
    await opened.client_of(BOB).hset(f"keypost:{{{BOB}}}:load", mapping={"bytes": 3, "last": NOW})
    await append(opened.mailboxes, posting(b"new", accept_time=NOW))
    old, new = await everything(opened.mailboxes)
    assert (old.envelope, new.envelope) == (b"old", b"new")
    assert await opened.mailboxes.acknowledge(BOB, [old.delivery_id]) == 1
    assert await opened.mailboxes.waiting(BOB) == Load(1, 3)


def _key(part: str) -> str:
    return f"keypost:{{{BOB}}}:{part}"


@contextlib.asynccontextmanager
async def _four_of_alice_s(url: str) -> AsyncIterator[tuple[OpenMailboxes, list[str]]]:
    """A mailbox in which Alice takes up her share, and the ids of her entries."""
    async with open_mailboxes(url, limits=replace(LIMITS, sender_percent=40)) as opened:
        await opened.clear()
        for _ in range(4):
            await append(opened.mailboxes, posting(b"x"))
        assert (await append(opened.mailboxes, posting(b"x")))[BOB].outcome is Outcome.SHARE_FULL
        yield opened, [waiting.delivery_id for waiting in await everything(opened.mailboxes)]


async def test_a_version_without_shares_that_empties_a_mailbox_locks_nobody_out(url: str) -> None:
    async with _four_of_alice_s(url) as (opened, ids):
        await opened.client_of(BOB).xdel(_key("waiting"), *ids)
        await opened.client_of(BOB).hset(_key("load"), "bytes", 0)
        outcomes = [(await append(opened.mailboxes, posting(b"x")))[BOB].outcome for _ in range(5)]
        assert outcomes == [Outcome.APPENDED] * 4 + [Outcome.SHARE_FULL]


async def test_a_version_without_shares_that_takes_a_part_out_locks_nobody_out(url: str) -> None:
    """Somebody else's message waits on, so that the mailbox never is empty."""
    async with _four_of_alice_s(url) as (opened, ids):
        await append(opened.mailboxes, posting(b"other", name=new_name(CAROL)))
        await opened.client_of(BOB).xdel(_key("waiting"), *ids[:3])
        await opened.client_of(BOB).hincrby(_key("load"), "bytes", -3)
        assert (await foresee(opened.mailboxes, posting(b"x")))[BOB].outcome is Outcome.APPENDED
        outcomes = [(await append(opened.mailboxes, posting(b"x")))[BOB].outcome for _ in range(4)]
        assert outcomes == [Outcome.APPENDED] * 3 + [Outcome.SHARE_FULL]
        assert await opened.mailboxes.waiting(BOB) == Load(5, 9)


async def test_entries_that_were_lost_weigh_nothing(url: str) -> None:
    """The stream is gone, or a part of it; what is written of its weight is not, and must end as the rest does."""
    for lost in (4, 1):
        async with _four_of_alice_s(url) as (opened, ids):
            await opened.client_of(BOB).hset(_key("load"), "bytes", 1_000)
            await opened.client_of(BOB).xdel(_key("waiting"), *ids[:lost])
            if lost == len(ids):
                await opened.client_of(BOB).delete(_key("waiting"))
            assert (await append(opened.mailboxes, posting(b"x")))[BOB].outcome is Outcome.APPENDED
            assert await opened.mailboxes.waiting(BOB) == Load(5 - lost, 5 - lost)
            assert all([0 < await opened.client_of(BOB).pttl(_key(part)) <= 31 * DAY for part in ("load", "shares")])


async def test_an_entry_of_a_version_without_shares_is_counted_and_is_nobody_s(url: str) -> None:
    async with _four_of_alice_s(url) as (opened, ids):
        await opened.client_of(BOB).xadd(_key("waiting"), {"t": NOW, "e": b"old"})
        assert (await append(opened.mailboxes, posting(b"x")))[BOB].outcome is Outcome.SHARE_FULL
        await opened.mailboxes.acknowledge(BOB, [ids[0]])
        outcomes = [(await append(opened.mailboxes, posting(b"x")))[BOB].outcome for _ in range(2)]
        assert outcomes == [Outcome.APPENDED, Outcome.SHARE_FULL]


async def test_acknowledged_envelopes_are_gone_and_uncounted(mailboxes: Mailboxes) -> None:
    for body in (b"1", b"22", b"333"):
        await append(mailboxes, posting(body))
    first, second, third = await everything(mailboxes)
    assert await mailboxes.acknowledge(BOB, [first.delivery_id, third.delivery_id]) == 2
    assert await everything(mailboxes) == [second]
    assert await mailboxes.waiting(BOB) == Load(1, 2)
    assert await mailboxes.acknowledge(BOB, [second.delivery_id]) == 1
    assert await mailboxes.waiting(BOB) == Load(0, 0)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
async def test_acknowledgements_may_be_in_any_order_and_leave_gaps(url: str, step: int) -> None:
    async with open_mailboxes(url, limits=MailboxLimits(1_000, 10_000)) as opened:
        await opened.clear()
        bodies = [str(number).encode() for number in range(100)]
        await opened.mailboxes.append_all([posting(body) for body in bodies])
        ids = [waiting.delivery_id for waiting in await everything(opened.mailboxes)]
        chosen = ids[10:90:step]
        asked = [*reversed(chosen), *chosen[:3], "1-1", f"{NOW}-50000", f"{NOW + 1}-0"]
        assert await opened.mailboxes.acknowledge(BOB, asked) == len(chosen)
        left = [waiting.delivery_id for waiting in await everything(opened.mailboxes)]
        assert left == [one for one in ids if one not in chosen]


@pytest.mark.parametrize(
    "unknown", ["", "x", "1", "-", "+", "1-1", "1-*", "99999999999999999999-0", "1-1 x", "1-1\n", "\u0661-\u0661", "*"]
)
async def test_unknown_acknowledgements_are_ignored(mailboxes: Mailboxes, unknown: str) -> None:
    await append(mailboxes, posting(b"x"))
    assert await mailboxes.acknowledge(BOB, [unknown]) == 0
    assert await mailboxes.waiting(BOB) == Load(1, 1)


async def test_an_acknowledgement_counts_once_however_many_come(mailboxes: Mailboxes) -> None:
    for body in (b"1", b"2"):
        await append(mailboxes, posting(body))
    delivery_id = (await everything(mailboxes))[0].delivery_id
    counts = await asyncio.gather(*(mailboxes.acknowledge(BOB, [delivery_id, delivery_id]) for _ in range(20)))
    assert sum(counts) == 1
    assert await mailboxes.waiting(BOB) == Load(1, 1)


async def test_what_is_too_old_is_forgotten_at_the_next_append(mailboxes: Mailboxes) -> None:
    for number in range(10):
        await append(mailboxes, posting(b"old" * 10, accept_time=NOW + number))
    late = posting(b"new", accept_time=NOW + 5 + 30 * DAY)
    assert (await append(mailboxes, late))[BOB].outcome is Outcome.APPENDED
    assert await mailboxes.waiting(BOB) == Load(6, 5 * 30 + 3)


async def test_what_is_too_old_is_never_read(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"old", accept_time=NOW))
    await append(mailboxes, posting(b"new", accept_time=NOW + 1))
    found = await mailboxes.read(CLAIM, BEGINNING, ALL, NOW + 1)
    assert [waiting.envelope for waiting in found] == [b"new"]
    assert await mailboxes.waiting(BOB) == Load(1, 3)


async def test_reading_goes_on_after_a_delivery(mailboxes: Mailboxes) -> None:
    for body in (b"1", b"2", b"3", b"4"):
        await append(mailboxes, posting(body))
    first = await mailboxes.read(CLAIM, BEGINNING, Page(3), 0)
    rest = await mailboxes.read(CLAIM, first[-1].delivery_id, Page(3), 0)
    assert [waiting.envelope for waiting in [*first, *rest]] == [b"1", b"2", b"3", b"4"]
    assert await mailboxes.read(CLAIM, rest[-1].delivery_id, Page(3), 0) == []


async def test_a_page_is_bounded_by_bytes_but_never_empty(mailboxes: Mailboxes) -> None:
    for body in (b"x" * 50, b"x" * 50, b"x" * 300):
        await append(mailboxes, posting(body))
    two = await mailboxes.read(CLAIM, BEGINNING, Page(256, 100), 0)
    assert [len(waiting.envelope) for waiting in two] == [50, 50]
    large = await mailboxes.read(CLAIM, two[-1].delivery_id, Page(256, 100), 0)
    assert [len(waiting.envelope) for waiting in large] == [300]


async def test_a_claim_says_how_far_the_mailbox_reaches(mailboxes: Mailboxes) -> None:
    assert await mailboxes.claim(CLAIM) == BEGINNING
    await append(mailboxes, posting(b"1"))
    await append(mailboxes, posting(b"2"))
    assert await mailboxes.claim(CLAIM) == (await everything(mailboxes))[-1].delivery_id


async def test_a_second_claim_displaces_the_first(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"x"))
    await mailboxes.claim(CLAIM)
    later = Claim(BOB, "stream-2", 2)
    await mailboxes.claim(later)
    with pytest.raises(ReceiverDisplacedError):
        await mailboxes.read(CLAIM, BEGINNING, Page(0), 0)
    assert len(await everything(mailboxes, later)) == 1


async def test_numbers_of_claims_rise_per_mailbox(mailboxes: Mailboxes) -> None:
    numbers = await asyncio.gather(*(mailboxes.claim_number(BOB) for _ in range(8)))
    assert sorted(numbers) == list(range(1, 9))
    await append(mailboxes, posting(b"x"))
    await mailboxes.empty(BOB)
    assert await mailboxes.claim_number(BOB) == 9
    assert await mailboxes.claim_number(BOB_TABLET) == 1


async def test_a_claim_that_was_overtaken_on_its_way_displaces_nobody(mailboxes: Mailboxes) -> None:
    overtaken = Claim(BOB, "stream-1", await mailboxes.claim_number(BOB))
    newer = Claim(BOB, "stream-2", await mailboxes.claim_number(BOB))
    await mailboxes.claim(newer)
    with pytest.raises(ReceiverDisplacedError):
        await mailboxes.claim(overtaken)
    await append(mailboxes, posting(b"x"))
    assert len(await everything(mailboxes, newer)) == 1
    with pytest.raises(ReceiverDisplacedError):
        await everything(mailboxes, overtaken)


async def test_a_claim_that_comes_again_after_a_later_one_displaces_nobody(mailboxes: Mailboxes) -> None:
    later = Claim(BOB, "stream-2", 2)
    await mailboxes.claim(CLAIM)
    await mailboxes.claim(later)
    await mailboxes.release(later)
    with pytest.raises(ReceiverDisplacedError):
        await mailboxes.claim(CLAIM)


async def test_a_claim_that_comes_again_is_the_same_claim(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"x"))
    await mailboxes.claim(CLAIM)
    assert await _attempts(mailboxes, CLAIM) == [1]
    await mailboxes.claim(CLAIM)
    assert await _attempts(mailboxes, CLAIM) == [1]


async def test_a_displaced_stream_releases_nothing(mailboxes: Mailboxes) -> None:
    later = Claim(BOB, "stream-2", 2)
    await mailboxes.claim(CLAIM)
    await mailboxes.claim(later)
    await mailboxes.release(CLAIM)
    with pytest.raises(ReceiverDisplacedError):
        await everything(mailboxes, CLAIM)
    await mailboxes.release(later)
    assert await everything(mailboxes, CLAIM) == []


async def test_a_lost_claim_goes_to_the_first_who_reads(mailboxes: Mailboxes) -> None:
    assert await everything(mailboxes, CLAIM) == []
    with pytest.raises(ReceiverDisplacedError):
        await everything(mailboxes, Claim(BOB, "stream-2", 2))


async def _attempts(mailboxes: Mailboxes, claim: Claim) -> list[int]:
    return [waiting.attempts for waiting in await everything(mailboxes, claim)]


async def test_each_claim_that_reads_an_envelope_counts_as_an_attempt(mailboxes: Mailboxes) -> None:
    for body in (b"1", b"2"):
        await append(mailboxes, posting(body))
    await mailboxes.claim(CLAIM)
    assert await _attempts(mailboxes, CLAIM) == [1, 1]
    second = Claim(BOB, "stream-2", 2)
    await mailboxes.claim(second)
    (one,) = await mailboxes.read(second, BEGINNING, Page(1), 0)
    assert one.attempts == 2
    await append(mailboxes, posting(b"3"))
    third = Claim(BOB, "stream-3", 3)
    await mailboxes.claim(third)
    assert await _attempts(mailboxes, third) == [3, 2, 1]


async def test_the_same_claim_may_read_again_what_it_was_not_answered(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1"))
    await mailboxes.claim(CLAIM)
    assert [await _attempts(mailboxes, CLAIM) for _ in range(3)] == [[1]] * 3
    again = Claim(BOB, "stream-2", 2)
    await mailboxes.claim(again)
    assert [await _attempts(mailboxes, again) for _ in range(3)] == [[2]] * 3


async def test_attempts_end_with_their_envelope(opened: OpenMailboxes) -> None:
    mailboxes, client = opened.mailboxes, opened.client_of(BOB)
    for body in (b"1", b"2", b"3"):
        await append(mailboxes, posting(body))
    for number in range(3):
        claim = Claim(BOB, f"stream-{number}", number)
        await mailboxes.claim(claim)
        await everything(mailboxes, claim)
    first, second, _ = await everything(mailboxes, claim)
    assert first.attempts == 3
    await mailboxes.acknowledge(BOB, [first.delivery_id])
    assert await client.hlen(_key("attempts")) == 2
    assert 0 < await client.pttl(_key("attempts")) <= 31 * DAY
    assert await mailboxes.read(claim, BEGINNING, Page(1), 0) == [second]
    await mailboxes.empty(BOB)
    assert not await client.exists(_key("attempts"))


async def _seen_by_the_replica(client: Redis) -> dict[str, bytes]:
    return {part: await client.dump(_key(part)) or b"" for part in ("waiting", "load", "shares")}


async def _replica_takes_over(client: Redis, seen: dict[str, bytes]) -> None:
    """Put a mailbox back to what a replica had seen of it: what came later is lost, and its ids are given again."""
    for part, dump in seen.items():
        await client.restore(_key(part), 31 * DAY, dump, replace=True)


async def test_what_was_lost_at_the_end_is_read_when_it_comes_again(opened: OpenMailboxes) -> None:
    """As if a replica took over that had not seen the last messages: they were read, and get the same ids again."""
    mailboxes, client = opened.mailboxes, opened.client_of(BOB)
    seen: dict[str, bytes] = {}
    for body in (b"1", b"2", b"3"):
        await append(mailboxes, posting(body))
        if body == b"2":
            await mailboxes.claim(CLAIM)
            assert len(await everything(mailboxes)) == 2
            seen = await _seen_by_the_replica(client)
    *_, third = await everything(mailboxes)
    await _replica_takes_over(client, seen)
    assert await mailboxes.read(CLAIM, third.delivery_id, ALL, 0) == []
    await append(mailboxes, posting(b"other"))
    (other,) = await mailboxes.read(CLAIM, third.delivery_id, ALL, 0)
    assert (other.delivery_id, other.envelope) == (third.delivery_id, b"other")


async def test_an_acknowledgement_of_what_was_lost_takes_nothing_else_away(opened: OpenMailboxes) -> None:
    """It is under way as a replica takes over, and another message has got the id since, which nobody has read."""
    mailboxes, client = opened.mailboxes, opened.client_of(BOB)
    await append(mailboxes, posting(b"1"))
    await mailboxes.claim(CLAIM)
    (first,) = await everything(mailboxes)
    seen = await _seen_by_the_replica(client)
    await append(mailboxes, posting(b"lost"))
    (lost,) = await mailboxes.read(CLAIM, first.delivery_id, ALL, 0)
    await _replica_takes_over(client, seen)
    await append(mailboxes, posting(b"other", name=new_name(CAROL)))
    assert await mailboxes.acknowledge(BOB, [first.delivery_id, lost.delivery_id]) == 1
    (other,) = await mailboxes.read(CLAIM, lost.delivery_id, ALL, 0)
    assert (other.delivery_id, other.envelope) == (lost.delivery_id, b"other")
    assert await mailboxes.acknowledge(BOB, [other.delivery_id]) == 1


async def test_what_nobody_has_read_cannot_be_acknowledged(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1"))
    await append(mailboxes, posting(b"2"))
    newest = await mailboxes.claim(CLAIM)
    assert await mailboxes.acknowledge(BOB, [newest]) == 0
    (first,) = await mailboxes.read(CLAIM, BEGINNING, Page(1), 0)
    assert await mailboxes.acknowledge(BOB, [first.delivery_id, newest]) == 1
    assert [waiting.envelope for waiting in await everything(mailboxes)] == [b"2"]


async def test_a_mailbox_that_has_lost_its_last_id_takes_messages(opened: OpenMailboxes) -> None:
    mailboxes, client = opened.mailboxes, opened.client_of(BOB)
    await append(mailboxes, posting(b"1", accept_time=NOW))
    await client.delete(_key("load"))
    await append(mailboxes, posting(b"2", accept_time=NOW - DAY))
    await append(mailboxes, posting(b"3", accept_time=NOW - DAY))
    assert [waiting.envelope for waiting in await everything(mailboxes)] == [b"1", b"2", b"3"]


async def test_claims_are_per_device(mailboxes: Mailboxes) -> None:
    await mailboxes.claim(CLAIM)
    await mailboxes.claim(Claim(BOB_TABLET, "stream-2", 2))
    assert await everything(mailboxes) == []


async def test_what_nobody_watches_is_appended_unheard(mailboxes: Mailboxes) -> None:
    async with asyncio.timeout(5), mailboxes.watch(BOB_TABLET) as wake_ups:
        await wake_ups.wait()
        acceptances = await append(mailboxes, posting(b"x", BOB, BOB_TABLET))
    assert {address: acceptance.heard for address, acceptance in acceptances.items()} == {BOB: False, BOB_TABLET: True}


async def test_of_what_is_there_already_it_is_said_too_whether_anybody_heard(mailboxes: Mailboxes) -> None:
    name = new_name()
    await append(mailboxes, posting(b"x", BOB, BOB_TABLET, name=name))
    async with asyncio.timeout(5), mailboxes.watch(BOB_TABLET) as wake_ups:
        await wake_ups.wait()
        for body in (b"x", b"sealed again"):
            acceptances = await append(mailboxes, posting(body, BOB, BOB_TABLET, name=name))
            heard = {address: acceptance.heard for address, acceptance in acceptances.items()}
            assert heard == {BOB: False, BOB_TABLET: True}
            await wake_ups.wait()


async def test_a_watcher_is_woken_when_its_subscription_stands_and_by_each_change(mailboxes: Mailboxes) -> None:
    async with asyncio.timeout(5), mailboxes.watch(BOB) as wake_ups:
        await wake_ups.wait()
        await append(mailboxes, posting(b"x"))
        await wake_ups.wait()
        await mailboxes.claim(CLAIM)
        await wake_ups.wait()
        await append(mailboxes, posting(b"x", BOB_TABLET))
        await append(mailboxes, posting(b"x", name=new_name(ALICE)))
        await wake_ups.wait()


async def test_two_watchers_of_one_mailbox_are_both_woken(mailboxes: Mailboxes) -> None:
    async with asyncio.timeout(5), mailboxes.watch(BOB) as first:
        await first.wait()
        async with mailboxes.watch(BOB) as second:
            await second.wait()
            await append(mailboxes, posting(b"x"))
            await first.wait()
            await second.wait()
        await append(mailboxes, posting(b"x"))
        await first.wait()


async def test_backlogs_say_how_much_waits_and_since_when(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1", accept_time=NOW))
    await append(mailboxes, posting(b"2", accept_time=NOW + 5))
    assert await mailboxes.backlogs([BOB_TABLET, BOB]) == {BOB_TABLET: Backlog(0, 0), BOB: Backlog(2, NOW)}
    assert await mailboxes.backlogs([]) == {}


async def test_asking_for_backlogs_displaces_nobody(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1"))
    await mailboxes.claim(CLAIM)
    await mailboxes.backlogs([BOB])
    assert len(await everything(mailboxes)) == 1


async def test_an_emptied_mailbox_holds_nothing_and_takes_what_comes(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1", BOB, BOB_TABLET))
    name = new_name()
    await append(mailboxes, posting(b"2", name=name))
    assert [await mailboxes.empty(BOB) for _ in range(2)] == [2, 0]
    assert (await mailboxes.waiting(BOB), await everything(mailboxes)) == (Load(0, 0), [])
    assert (await mailboxes.waiting(BOB_TABLET)).messages == 1, "nobody else's"
    again = await append(mailboxes, posting(b"2", name=name))
    assert again[BOB].outcome is Outcome.DUPLICATE, "what was taken once is not taken again"
    await append(mailboxes, posting(b"3"))
    assert [waiting.envelope for waiting in await everything(mailboxes)] == [b"3"]


async def test_ids_do_not_go_back_in_an_emptied_mailbox(mailboxes: Mailboxes) -> None:
    await append(mailboxes, posting(b"1", accept_time=NOW))
    (before,) = await everything(mailboxes)
    await mailboxes.empty(BOB)
    await append(mailboxes, posting(b"2", accept_time=NOW - DAY))
    (after,) = await everything(mailboxes)
    assert position(after.delivery_id)[0] >= position(before.delivery_id)[0]


async def test_what_an_emptied_mailbox_held_takes_up_no_share(shared: Mailboxes) -> None:
    for body in (b"1", b"2", b"3", b"4"):
        await append(shared, posting(body))
    assert (await foresee(shared, posting(b"5")))[BOB].outcome is Outcome.SHARE_FULL
    await shared.empty(BOB)
    assert (await append(shared, posting(b"6")))[BOB].outcome is Outcome.APPENDED


async def test_a_trace_context_is_kept_beside_an_envelope_and_weighs_nothing(mailboxes: Mailboxes) -> None:
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced, plain = replace(posting(b"one"), trace_context=context), posting(b"two")
    await mailboxes.append_all([traced, plain])
    await mailboxes.foresee_all([replace(posting(b"three"), trace_context=context)])
    await mailboxes.claim(CLAIM)
    found = await mailboxes.read(CLAIM, BEGINNING, ALL, 0)
    assert [(waiting.envelope, waiting.trace_context) for waiting in found] == [(b"one", context), (b"two", "")]
    assert await mailboxes.waiting(BOB) == Load(2, 6)
    assert await mailboxes.acknowledge(BOB, [waiting.delivery_id for waiting in found]) == 2
    assert await mailboxes.waiting(BOB) == Load(0, 0)
