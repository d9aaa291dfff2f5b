"""What holds between the envelopes of one stream, and how far a stream is read ahead."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from keypost_services.delivery import send_stream
from keypost_services.delivery.judging import Stale
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.send_stream import Batch, Result, SendStream
from keypost_services.delivery.sending import Admitted, Held, Stored
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

STORED = Stored(1, duplicate=False, appends=1)
STALE = Stale(None, None)
FULL = ServiceError(StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL", "full")
MALFORMED = ServiceError(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "no envelope")
USED = ServiceError(StatusCode.ALREADY_EXISTS, "MESSAGE_ID_USED", "used")
NOBODY = ServiceError(StatusCode.NOT_FOUND, "USER_NOT_FOUND", "nobody", username="nobody")


def incoming(to: str = "bob", revision: int = 1, *, admitted: object = None, stored: object = STORED) -> Any:
    """Return an envelope of which the judge, and then the mailboxes, say what is given."""
    known = SimpleNamespace(conversation=(to, 1, revision))
    return SimpleNamespace(known=known, admitted=admitted, stored=stored)


def record_of(username: str, size: int) -> Any:
    """Return a record whose key info is of so many bytes."""
    return SimpleNamespace(username=username, key_info=SimpleNamespace(ByteSize=lambda: size))


class Sending:
    """Says what envelopes bring along."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.prepared: list[list[object]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    def judging(self, _caller: object) -> Any:
        async def prepare(envelopes: Iterable[object], _seconds: float) -> None:
            self.prepared.append(list(envelopes))

        return SimpleNamespace(prepare=prepare)

    async def admit(self, _judging: object, one: Any) -> Admitted | Stale:
        if isinstance(one.admitted, Exception):
            raise one.admitted
        if isinstance(one.admitted, asyncio.Event):
            await one.admitted.wait()
        return one.admitted or Admitted(one, ())

    async def store(self, admitted: Sequence[Admitted]) -> list[Any]:
        self.batches.append(len(admitted))
        await self.go_on.wait()
        return [one.incoming.stored for one in admitted]  # type: ignore[attr-defined]


class Outlet:
    """Takes results as fast as it is let."""

    def __init__(self) -> None:
        self.said: list[Sequence[Result]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def results(self, results: Sequence[Result]) -> None:
        await self.go_on.wait()
        self.said.append(results)


class Bench:
    def __init__(self) -> None:
        self.sending, self.outlet = Sending(), Outlet()
        self.failures: list[str] = []
        self.unknown: list[str] = []
        self.most_unknown = 9
        self.pulled = 0
        caller: Any = None
        sending: Any = self.sending
        self.stream = SendStream(sending, caller, self.failures.append, self._unknown, judging_seconds=0.1)

    async def _unknown(self, username: str) -> None:
        self.unknown.append(username)
        if len(self.unknown) > self.most_unknown:
            raise ServiceError(StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", "too many")

    async def send(self, *envelopes: Any, resume: tuple[str, ...] = ()) -> list[Any]:
        return list(await self.stream.send(Batch(envelopes, resume)))

    async def batches(self, *batches: Any) -> AsyncIterator[Batch]:
        for batch in batches:
            self.pulled += 1
            if isinstance(batch, Exception):
                raise batch
            yield Batch([batch], ())

    async def run(self, *batches: Any) -> None:
        await self.stream.run(self.batches(*batches), self.outlet)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    "refused", [incoming(admitted=STALE), incoming(admitted=FULL), incoming(stored=FULL), incoming(stored=Held())]
)
async def test_nothing_of_the_conversation_overtakes_what_was_not_stored(bench: Bench, refused: Any) -> None:
    results = await bench.send(incoming(), refused, incoming(), incoming(to="carol"), incoming(revision=2))
    assert [type(result) for result in results] == [
        Stored,
        type(refused.admitted or refused.stored),
        Held,
        Stored,
        Stored,
    ]
    assert [type(one) for one in await bench.send(incoming(), incoming(to="carol"))] == [Held, Stored]
    assert [type(one) for one in await bench.send(incoming(), resume=("carol",))] == [Held]
    assert [type(one) for one in await bench.send(incoming(), resume=("bob",))] == [Stored]


async def test_a_message_that_is_there_under_other_bytes_holds_nothing(bench: Bench) -> None:
    assert await bench.send(incoming(stored=USED), incoming()) == [USED, STORED]
    assert await bench.send(incoming()) == [STORED]


async def test_what_is_held_within_a_batch_is_not_judged(bench: Bench) -> None:
    results = await bench.send(incoming(admitted=STALE), incoming(admitted=AssertionError()))
    assert results == [STALE, Held()]


async def test_what_is_held_already_is_not_looked_up(bench: Bench) -> None:
    await bench.send(incoming(admitted=STALE))
    await bench.send(incoming(), MALFORMED, carols := incoming(to="carol"))
    assert bench.sending.prepared[-1] == [carols]


async def test_what_is_not_known_in_time_holds_up_neither_the_batch_nor_others(bench: Bench) -> None:
    silent = [incoming(to=f"user{n}", admitted=asyncio.Event()) for n in range(3)]
    async with asyncio.timeout(5):
        *refused, stored = await bench.send(*silent, incoming())
    assert [one.reason for one in refused] == ["DIRECTORY_UNAVAILABLE"] * 3
    assert stored == STORED
    assert [type(one) for one in await bench.send(incoming(to="user1"), incoming())] == [Held, Stored]


async def test_a_refusal_of_the_mailboxes_comes_before_a_later_one_of_the_judge(bench: Bench) -> None:
    assert await bench.send(incoming(stored=FULL), incoming(admitted=STALE)) == [FULL, Held()]


async def test_records_that_have_no_room_in_one_response_are_told_when_it_is_their_turn_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_stream, "MOST_RECORD_BYTES", 1_000)
    users = [f"user-{number}" for number in range(8)]
    stale = {user: Stale(None, record_of(user, 400)) for user in users}
    stored: set[str] = set()
    for _ in range(4):
        left = [user for user in users if user not in stored]
        results = await bench.send(*(incoming(user, admitted=stale[user]) for user in left), resume=tuple(left))
        told = {user for user, result in zip(left, results, strict=True) if result is stale[user]}
        assert told == set(left[:2]), "two have room"
        assert results[2:] == [Held()] * (len(left) - 2)
        assert await bench.send(*(incoming(user) for user in left[2:])) == [Held()] * (len(left) - 2)
        stored |= told
    assert stored == set(users)


async def test_one_record_is_told_however_large_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_stream, "MOST_RECORD_BYTES", 1_000)
    large = Stale(record_of("alice", 300), record_of("bob", 900))
    batch = incoming(), incoming("bo", admitted=large), incoming("carol", admitted=large), incoming("dan"), MALFORMED
    # Whatever has no records goes on behind it: it is in the mailbox, and who is told otherwise sends it again.
    assert await bench.send(*batch) == [STORED, large, Held(), STORED, MALFORMED]


async def test_what_is_not_well_formed_holds_nothing(bench: Bench) -> None:
    assert await bench.send(MALFORMED, incoming()) == [MALFORMED, STORED]


@pytest.mark.parametrize(
    "failing",
    [incoming(admitted=MailboxesUnavailableError("gone")), incoming(stored=MailboxesUnavailableError("gone"))],
)
async def test_mailboxes_that_fail_are_a_refusal_and_told(bench: Bench, failing: Any) -> None:
    first, second = await bench.send(failing, incoming())
    assert (first.reason, second) == ("MAILBOXES_UNAVAILABLE", Held())
    assert bench.failures == ["gone"]


async def test_too_many_unknown_recipients_end_the_stream_before_anything_is_stored_or_said(bench: Bench) -> None:
    bench.most_unknown = 1
    with pytest.raises(ServiceError, match="too many"):
        await bench.send(*(incoming(to=f"user{n}", admitted=NOBODY) for n in range(5)))
    assert len(bench.unknown) == 2
    assert not bench.sending.batches


async def test_a_slow_reader_of_results_is_not_read_on(bench: Bench) -> None:
    bench.outlet.go_on.clear()
    many = [incoming() for _ in range(50)]
    running = asyncio.ensure_future(bench.run(*many))
    await turns()
    assert bench.pulled == 3, "one is answered, one waits, one is being read"
    assert bench.sending.batches == [1], "nothing is judged or stored before its turn"
    bench.outlet.go_on.set()
    await running
    assert len(bench.outlet.said) == 50


async def test_slow_mailboxes_slow_the_sender(bench: Bench) -> None:
    bench.sending.go_on.clear()
    many = [incoming() for _ in range(50)]
    running = asyncio.ensure_future(bench.run(*many))
    await turns()
    assert bench.pulled == 3
    bench.sending.go_on.set()
    await running
    assert len(bench.outlet.said) == 50


async def test_the_results_of_what_came_before_an_error_are_out_first(bench: Bench) -> None:
    with pytest.raises(ServiceError, match="no envelope"):
        await bench.run(incoming(), incoming(), MALFORMED)
    assert len(bench.outlet.said) == 2


async def test_a_stream_that_is_ended_reads_no_further(bench: Bench) -> None:
    bench.outlet.go_on.clear()
    many = [incoming() for _ in range(50)]
    running = asyncio.ensure_future(bench.run(*many))
    await turns()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await turns()
    assert bench.pulled == 3


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)
