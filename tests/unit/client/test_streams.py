"""The stream that brings the mailbox breaks, ends, is refused: what the client does then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.errors import RefusedError, UnreachableError
from support.simulation import failing

if TYPE_CHECKING:
    from support.simulation import Services

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_stream_that_breaks_is_opened_again(alice: Any, bob: Any, services: Services) -> None:
    services.faults["Receive"] = [
        failing(UNAVAILABLE, "STREAM_EXPIRED"),
        failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE", retry_after_ms=1),
    ]
    services.faults["ReceiveEnds"] = [failing(UNAVAILABLE, "STREAM_EXPIRED")]
    await alice.client.send("bob", "one")
    texts: list[str] = []
    async with asyncio.timeout(20):
        async for message in bob.client.receive():
            texts.append(message.text)
            if len(texts) == 2:
                break
            await alice.client.send("bob", "two")
    assert texts == ["one", "two"]
    assert services.streams >= 2


async def test_a_displaced_receiver_is_told(bob: Any, services: Services) -> None:
    services.faults["Receive"] = [failing(grpc.StatusCode.ABORTED, "RECEIVER_DISPLACED")]
    async with asyncio.timeout(20):
        with pytest.raises(RefusedError) as caught:
            _ = [message async for message in bob.client.receive()]
    assert caught.value.reason == "RECEIVER_DISPLACED"


async def test_without_following_a_delivery_that_stays_away_is_said(bob: Any, services: Services) -> None:
    services.faults["Receive"] = [failing(UNAVAILABLE, "MAILBOXES_UNAVAILABLE")] * 20
    with pytest.raises(RefusedError) as caught:
        await bob.inbox()
    assert caught.value.reason == "MAILBOXES_UNAVAILABLE"
    services.faults["Receive"] = [failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause="WRONG_KEY")] * 20
    async with asyncio.timeout(20):
        with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
            _ = [message async for message in bob.client.receive()]


async def test_a_delivery_that_does_not_know_a_key_yet_that_is_on_record_is_waited_for(
    alice: Any, bob: Any, services: Services
) -> None:
    # As long as the directory hears nothing from the CA, a key that was just renewed is unknown to both.
    services.faults["Receive"] = [failing(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause="UNKNOWN_KEY")] * 20
    await alice.client.send("bob", "one")
    async with asyncio.timeout(20):
        assert (await anext(bob.client.receive())).text == "one"


async def test_a_stream_that_ends_without_a_word_is_opened_again(alice: Any, bob: Any, services: Services) -> None:
    async def end(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "")

    services.faults["Receive"] = [end, end]
    await alice.client.send("bob", "one")
    assert [message.text for message in await bob.inbox()] == ["one"]


async def test_the_inbox_is_handed_out_though_delivery_is_away(alice: Any, bob: Any, services: Services) -> None:
    await alice.client.send("bob", "one")
    iterator = bob.client.receive()
    await anext(iterator)
    await iterator.aclose()

    async def gone(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "")

    services.faults["Receive"] = [gone] * 20
    iterator = bob.client.receive(follow=False)
    assert (await anext(iterator)).text == "one"
    with pytest.raises(UnreachableError):
        await anext(iterator)
