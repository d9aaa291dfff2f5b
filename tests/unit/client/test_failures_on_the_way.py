"""Something fails that nobody foresaw, in the application or in the client: nobody waits for ever, nothing is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from keypost.client import lanes, outgoing
from keypost.client.pipeline import Broken, Parcel, Pipeline
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import KeypostError
from keypost.transport.refusals import explained
from keypost.transport.retries import Backoff, Retries
from support.delivery_model import Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import pytest

LONG = 20


class OneStream:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Sequence[Any]] = asyncio.Queue()
        self.written: asyncio.Queue[Sequence[envelope_pb2.Envelope]] = asyncio.Queue()

    async def write(
        self, envelopes: Sequence[envelope_pb2.Envelope], _resume: Sequence[str], _trace_contexts: Sequence[str] = ()
    ) -> None:
        await self.written.put(envelopes)

    async def answers(self) -> AsyncIterator[Sequence[Any]]:
        while True:
            yield await self.told.get()

    async def finish(self) -> None:
        """Nothing is open."""

    def cancel(self) -> None:
        """Nothing is open."""


class Streams:
    """Where they are opened."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[OneStream] = asyncio.Queue()

    def send_stream(self) -> OneStream:
        stream = OneStream()
        self.opened.put_nowait(stream)
        return stream


def parcel(settle: Callable[[Any], None]) -> Parcel:
    return Parcel("bob", envelope_pb2.Envelope(), size=1, signer=b"key", settle=settle)


async def test_one_answer_that_cannot_be_told_costs_no_other_and_is_not_taken_for_one_of_the_next_stream() -> None:
    streams: Any = Streams()
    settled: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def fails(_answer: Any) -> None:
        raise RuntimeError("nobody foresaw it")

    def noted(name: str) -> Callable[[Any], None]:
        return lambda answer: settled.put_nowait((name, answer))

    retries = Retries(backoff=Backoff(first=0.0, longest=0.0))
    pipeline = Pipeline(streams, retries, signer=lambda: b"key", on_established=lambda: None)
    async with asyncio.timeout(LONG):
        pipeline.submit([parcel(fails), parcel(noted("beside"))])
        first = await streams.opened.get()
        await first.written.get()
        pipeline.submit([parcel(noted("under way"))])
        await first.written.get()
        await first.told.put([pb.Stored(accept_time=1), pb.Stored(accept_time=2)])
        left = [await settled.get(), await settled.get()]
        pipeline.submit([parcel(noted("next"))])
        second = await streams.opened.get()
        await second.written.get()
        await second.told.put([pb.Stored(accept_time=3)])
        name, answer = await settled.get()
    assert [name for name, _ in left] == ["beside", "under way"]
    assert all(isinstance(broken, Broken) for _, broken in left)
    assert (name, answer.accept_time) == ("next", 3)
    await pipeline.close()


async def test_an_application_that_fails_at_a_step_or_an_event_costs_no_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sender = Sender("bob")

    def fails(_shown: Any) -> None:
        raise RuntimeError("the application failed")

    sender.observer = fails
    await sender.start()
    object.__setattr__(sender.sending._context, "on_event", fails)
    sender.sending._context.tell("warning", "TRIED", "it is told")
    async with asyncio.timeout(LONG):
        first = await asyncio.gather(*(sender.sending.send("bob", sender.text(str(number))) for number in range(3)))
        later = await sender.sending.send("bob", sender.text("later"))
    assert [sent.counter for sent in (*first, later)] == [1, 2, 3, 4]
    sender.delivery.check("bob")
    assert sum("the application's" in record.message for record in caplog.records) > 4
    await sender.sending.close()
    await sender.worker.close()


async def test_what_is_under_way_gets_its_outcome_though_the_next_group_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender("bob")
    await sender.start()
    sender.delivery.turns = iter([200])
    real, calls = outgoing.fill, []

    def fill(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise ValueError("nobody foresaw it")
        return real(*args)

    monkeypatch.setattr(lanes, "fill", fill)
    monkeypatch.setattr(lanes, "MOST_TOGETHER", 1)
    async with asyncio.timeout(LONG):
        first, second = await asyncio.gather(
            *(sender.sending.send("bob", sender.text(body)) for body in ("first", "second")), return_exceptions=True
        )
        third = await sender.sending.send("bob", sender.text("third"))
    assert not isinstance(first, BaseException)
    assert first.counter == 1
    assert isinstance(second, KeypostError)
    assert third.counter == 2
    await sender.sending.close()
    await sender.worker.close()


def test_a_service_may_call_its_facts_what_it_likes() -> None:
    facts = {"self": "x", "message": "y", "username": "bob"}
    refusal = explained("delivery", 9, "STALE", "no", facts, retry_after_ms=None)
    assert refusal.error.metadata == {"self": "x", "username": "bob"}
