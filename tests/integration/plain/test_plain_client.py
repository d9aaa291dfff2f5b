"""What the protos and the specification say is enough to write a client: this one has nothing of the SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.plain_stack import open_plain_stack

if TYPE_CHECKING:
    from pathlib import Path


async def test_two_devices_of_a_strange_client_talk(tmp_path: Path) -> None:
    async with open_plain_stack(tmp_path) as stack:
        alice, bob = await stack.enroll("alice"), await stack.enroll("bob")
        await alice.send("bob", "Hello")
        assert await bob.texts() == ["Hello"]
        (waiting,) = await bob.waiting()
        await bob.waiting(None, waiting.delivery_id)
        assert await bob.texts() == []
        bob.pair = await stack.ca.renew(bob.pair)
        await bob.send("alice", "Hello yourself")
        assert await alice.texts() == ["Hello yourself"]
