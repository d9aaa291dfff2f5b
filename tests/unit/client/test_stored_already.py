"""What delivery has is known by its id, sealed anew or not: after a crash it costs no round trip each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from keypost.client.outgoing import Tidying
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import RefusedError
from keypost.transport.send_stream import SendOneByOne
from support.delivery_model import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 20
COUNT = 20


@pytest.mark.parametrize(("holds", "rounds"), [(False, 1), (True, COUNT)])
async def test_what_is_stored_already_is_settled_at_once(
    monkeypatch: pytest.MonkeyPatch, *, holds: bool, rounds: int
) -> None:
    sender = Sender("bob")
    sender.delivery.holds_after_known = holds
    await sender.start()
    with monkeypatch.context() as patch:
        # The process ends before it has taken out of the outbox what is stored.
        patch.setattr(Tidying, "begin", lambda _: None)
        calls = (sender.sending.send("bob", sender.text(str(number))) for number in range(COUNT))
        await asyncio.wait_for(asyncio.gather(*calls), LONG)
        await sender.crash()
    assert len(sender.store.outbox.to("bob")) == COUNT
    sender.delivery.batches.clear()
    await sender.start()
    assert await asyncio.wait_for(sender.sending.flush(), LONG) == ()
    assert len(sender.delivery.batches) == rounds
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == list(range(1, COUNT + 1))
    assert sender.events == []
    await sender.sending.close()
    await sender.worker.close()


async def test_without_streams_nothing_is_held_behind_what_is_stored_already() -> None:
    answers = _in_turn(RefusedError("MESSAGE_ID_USED", "it is there"), pb.Stored(), RefusedError("MAILBOX_FULL", "no"))

    async def send(_envelope: envelope_pb2.Envelope) -> pb.SendResponse:
        answer = next(answers)
        if isinstance(answer, RefusedError):
            raise answer
        return pb.SendResponse(stored=answer)

    stream = SendOneByOne(send)
    header = envelope_pb2.Header(recipient_username="bob").SerializeToString()
    await stream.write([envelope_pb2.Envelope(header=header)] * 4, [])
    async for answered in stream.answers():
        assert [type(answer).__name__ for answer in answered] == ["Refusal", "Stored", "Refusal", "Held"]
        break


def _in_turn(*answers: RefusedError | pb.Stored) -> Iterator[RefusedError | pb.Stored]:
    return iter(answers)
