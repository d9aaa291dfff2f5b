"""The client against the three services, each a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.protocol.steps import Step

LONG = 30


async def test_two_people_talk(enrolled: Any) -> None:
    steps: list[Step] = []
    alice = await enrolled("ann", observer=steps.append)
    bob = await enrolled("ben", observer=steps.append)
    async with asyncio.timeout(LONG):
        sent = await alice.send("ben", "Hello")
        again = await alice.send("ben", "Hello again")
        assert [message.text async for message in bob.receive(follow=False)] == ["Hello", "Hello again"]
        answer = await bob.send("ann", "Hello yourself")
        assert [message.text async for message in alice.receive(follow=False)] == ["Hello yourself"]
    assert again.key_id == answer.key_id == sent.key_id
    assert dict(again.rsa_operations) == {}
    numbers = [step.step for step in steps if step.actor == str(alice.address)][:7]
    assert numbers == [1, 2, 3, 4, 5, 6, 7]
    assert [step.step for step in steps if step.actor == str(bob.address)][1:8] == [8, 9, 10, 11, 12, 13, 14]


async def test_a_renewed_key_is_found_by_everybody(enrolled: Any) -> None:
    alice, bob = await enrolled("cleo"), await enrolled("dan")
    texts: list[str] = []

    async def receive() -> None:
        async for message in bob.receive():
            texts.append(message.text)
            if len(texts) == 3:
                return

    async with asyncio.timeout(LONG):
        task = asyncio.create_task(receive())
        await alice.send("dan", "before")
        await alice.renew()
        await alice.send("dan", "after the sender renewed")
        await bob.renew()
        await alice.send("dan", "after the recipient renewed")
        await task
    assert texts == ["before", "after the sender renewed", "after the recipient renewed"]


async def test_a_file_arrives_whole(enrolled: Any, tmp_path: Path) -> None:
    alice, bob = await enrolled("eva"), await enrolled("finn")
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(1_000_000))
    done: list[int] = []
    async with asyncio.timeout(LONG):
        sent = await alice.send_file("finn", path, progress=lambda part, _whole: done.append(part))
        async for message in bob.receive(follow=False):
            data = b"".join([chunk async for chunk in message.file.chunks()])
            assert (message.file.name, message.file.sha256) == ("file.bin", sent.sha256)
            assert hashlib.sha256(data).digest() == sent.sha256
    assert done[-1] == sent.size == 1_000_000
    assert sent.parts == 6


async def test_many_messages_keep_their_order(enrolled: Any) -> None:
    alice, bob = await enrolled("gil"), await enrolled("hana")
    async with asyncio.timeout(LONG):
        for number in range(40):
            await alice.send("hana", str(number))
        texts = [message.text async for message in bob.receive(follow=False)]
    assert texts == [str(number) for number in range(40)]


async def test_nobody_of_that_name(enrolled: Any) -> None:
    alice = await enrolled("ida")
    with pytest.raises(RefusedError) as caught:
        await alice.send("nobody", "hello")
    assert caught.value.reason == "USER_NOT_FOUND"
