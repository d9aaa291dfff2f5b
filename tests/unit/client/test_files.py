from __future__ import annotations

import asyncio
import hashlib
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.client.file_parts import PART_BYTES
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError
from keypost.keystore.errors import KeyStoreUnavailableError
from keypost.keystore.values import Totals
from keypost.protocol.encoding import sha256
from support.delivery import until
from support.surfaces import read

if TYPE_CHECKING:
    from pathlib import Path

    from support.simulation import Services


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 7])
async def test_a_file_of_any_size_arrives_whole(alice: Any, bob: Any, tmp_path: Path, size: int) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(os.urandom(size))
    progress: list[tuple[int, int]] = []
    sent = await alice.client.send_file(
        "bob", path, media_type="image/jpeg", progress=lambda done, total: progress.append((done, total))
    )
    assert sent.parts == max(1, -(-size // PART_BYTES))
    assert progress[-1] == (size, size)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    count = 0
    async for message in bob.client.receive(follow=False):
        count += 1
        assert message.file is not None
        assert (message.file.name, message.file.size, message.file.parts) == ("photo.jpg", size, sent.parts)
        assert (message.file.sha256, message.file.file_id) == (sent.sha256, sent.file_id)
        assert (message.media_type, message.body, message.missed) == ("image/jpeg", b"", 0)
        assert await read(message.file) == path.read_bytes()
    assert count == 1


async def test_the_bytes_of_a_file_go_when_it_is_handled(alice: Any, bob: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    await alice.client.send_file("bob", path)
    files = [message.file async for message in bob.client.receive(follow=False)]
    with pytest.raises(KeyStoreUnavailableError, match="gone"):
        await read(files[0])


async def test_a_message_sent_while_a_file_goes_is_kept_at_once_and_comes_before_it(
    alice: Any, bob: Any, tmp_path: Path, services: Services
) -> None:
    path, begun, go_on = tmp_path / "file", asyncio.Event(), asyncio.Event()
    path.write_bytes(os.urandom(20 * PART_BYTES))

    async def hold(_context: Any) -> None:
        begun.set()
        await go_on.wait()

    services.faults["Send"] = [hold]
    async with asyncio.timeout(60):
        file = asyncio.create_task(alice.client.send_file("bob", path))
        await begun.wait()
        text = asyncio.create_task(alice.client.send("bob", "meanwhile"))
        while not await alice.client._parts.context.store.run(has_message):
            pass
        assert not file.done()
        go_on.set()
        await asyncio.gather(file, text)
    messages = await bob.inbox()
    assert [(message.file is not None, message.missed) for message in messages] == [(False, 0), (True, 0)]


async def test_files_to_one_user_go_one_after_the_other(alice: Any, bob: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10 * PART_BYTES))
    sent = await asyncio.gather(*(alice.client.send_file("bob", path) for _ in range(2)))
    assert {message.file.file_id for message in await bob.inbox()} == {one.file_id for one in sent}


def has_message(store: Any) -> bool:
    """Return whether the outbox has anything but parts of files."""
    return any(pb.Content.FromString(message.content).HasField("message") for message in store.outbox.page())


async def test_parts_in_any_order_make_the_file(alice: Any, bob: Any, tmp_path: Path, services: Services) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 * PART_BYTES))
    await alice.client.send_file("bob", path)
    services.mailboxes[bob.client.address].reverse()
    async for message in bob.client.receive(follow=False):
        assert await read(message.file) == path.read_bytes()


async def test_a_part_that_contradicts_the_others_is_set_aside(alice: Any, bob: Any) -> None:
    for size in (6, 7):
        part = pb.FilePart(file_id=bytes(16), name="f", index=0, count=2, size=size, sha256=bytes(32), data=b"abc")
        await alice.client._parts.sending.send("bob", pb.Content(file_part=part), keep=False)
    assert await bob.inbox() == []
    assert bob.reasons("set_aside") == ["KEY_STORE_CONFLICT"]


@pytest.mark.usefixtures("bob")
async def test_a_file_that_cannot_be_read_or_changes_is_said(alice: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        await alice.client.send_file("bob", tmp_path / "none")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20 * PART_BYTES))

    def truncate(_done: int, _total: int) -> None:
        path.write_bytes(b"")

    with pytest.raises(InvalidArgumentError, match="changed"):
        await alice.client.send_file("bob", path, progress=truncate)


async def test_a_part_that_comes_again_hands_nothing_out_again(
    alice: Any, bob: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = pb.FilePart(file_id=bytes(16), name="f", media_type="a/b", index=0, count=1, size=3, data=b"abc")
    part.sha256 = sha256(part.data)
    for _ in range(2):
        await alice.client._parts.sending.send("bob", pb.Content(file_part=part), keep=False)
    hashed: list[int] = []
    real = hashlib.sha256

    def counting() -> Any:
        hashed.append(1)
        return real()

    # In this one module: the services of the test, in the same process, hash as well.
    monkeypatch.setattr("keypost.client.opening.hashlib", SimpleNamespace(sha256=counting))
    bodies = []
    async for message in bob.client.receive(follow=False):
        # Once it is handled it is forgotten, and the same part would be a file of its own.
        await until(lambda: not any(services.mailboxes.values()))
        bodies.append(await read(message.file))
    assert bodies == [b"abc"]
    assert hashed == [1]
    assert bob.reasons("set_aside") == []


async def test_a_file_that_is_only_announced_blocks_nobody(
    alice: Any, bob: Any, open_client: Any, tmp_path: Path
) -> None:
    carol = await open_client("carol")
    await carol.client.enroll("carol")
    part = pb.FilePart(file_id=bytes(16), name="f", index=0, count=2, size=4 * 1024**3, sha256=bytes(32), data=b"a")
    await carol.client._parts.sending.send("bob", pb.Content(file_part=part), keep=False)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    await alice.client.send_file("bob", path)
    assert [message.file.name for message in await bob.inbox()] == ["file"]


async def test_that_something_had_to_make_room_is_told(alice: Any, bob: Any, services: Services) -> None:
    def tighten(store: Any) -> None:
        store.set_aside._of_one_user = Totals(1, 10**6)
        store.files._incomplete_file_size = 5_000

    await bob.client._parts.context.store.run(tighten)
    for number in range(3):
        part = pb.FilePart(file_id=bytes([number]) * 16, name="f", index=0, count=2, size=6, sha256=bytes(32))
        part.data = b"abc"
        await alice.client._parts.sending.send("bob", pb.Content(file_part=part), keep=False)
        await services.put(bob.client.address, b"rubbish %d" % number)
    assert await bob.inbox() == []
    assert bob.reasons("warning") == ["SET_ASIDE_DROPPED", "FILE_DROPPED", "SET_ASIDE_DROPPED"]
