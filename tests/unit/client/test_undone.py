"""What is undone in the key store is undone in memory too: a session that was negotiated in vain."""

from __future__ import annotations

import asyncio

from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError
from support.delivery_model import Sender

LONG = 20


async def test_no_message_goes_out_under_a_session_that_was_undone_with_one_too_large() -> None:
    sender = Sender("bob")
    await sender.start()
    huge = envelope_pb2.Content(message=envelope_pb2.Message(media_type="text/plain", body=b"x" * 261_900))
    too_large, after, last = await asyncio.wait_for(
        asyncio.gather(
            sender.sending.send("bob", huge),
            sender.sending.send("bob", sender.text("after")),
            sender.sending.send("bob", sender.text("last")),
            return_exceptions=True,
        ),
        LONG,
    )
    assert isinstance(too_large, InvalidArgumentError)
    assert not isinstance(after, BaseException)
    assert not isinstance(last, BaseException)
    assert (after.counter, last.counter, after.new_session) == (1, 2, True)
    assert after.key_id == last.key_id
    assert sender.store.sessions.find(("alice", "bob"), after.key_id) is not None
    await sender.sending.close()
    await sender.worker.close()
