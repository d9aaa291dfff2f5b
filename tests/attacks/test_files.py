"""Files in parts that lie about the whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol.encoding import sha256
from support.attacks import check_told, check_untold
from support.hostile import Peer, tighten

if TYPE_CHECKING:
    from support.simulation import Services
    from support.talk import Offer


class Uploader:
    """Mallory, who sends Bob parts of files."""

    def __init__(self, peer: Peer, bob: Any) -> None:
        self.peer, self.bob = peer, bob
        self.offer: Offer = peer.offer("bob")

    async def part(self, data: bytes, **fields: Any) -> None:
        part = {"file_id": bytes(16), "name": "f", "count": 1, "size": len(data), "sha256": sha256(data), **fields}
        content = pb.Content(file_part=pb.FilePart(data=data, **part))
        await self.peer.put(self.bob.client.address, self.offer, content)


@pytest.fixture
def mallory(services: Services, bob: Any) -> Uploader:
    return Uploader(Peer.enroll(services, "mallory"), bob)


async def stored_parts(person: Any) -> list[bytes]:
    def read(store: Any) -> list[bytes]:
        return [data for (data,) in store._database.all("SELECT data FROM file_parts")]

    return await person.client._parts.context.store.run(read)  # type: ignore[no-any-return]


@pytest.mark.parametrize("lie", [{"sha256": bytes(32)}, {"size": 4}], ids=["hash", "size"])
async def test_a_file_that_is_not_what_was_announced(bob: Any, mallory: Uploader, lie: dict[str, Any]) -> None:
    await mallory.part(b"abc", **lie)
    assert await bob.inbox() == []
    assert await stored_parts(bob) == []
    check_told(bob.reasons(), "FILE_REFUSED")


async def test_a_last_part_again_and_again(bob: Any, mallory: Uploader) -> None:
    """Each would have the whole file hashed again: the first that fails takes the file with it."""
    for index, data in enumerate((b"abc", b"def", b"def", b"def")):
        await mallory.part(data, index=min(index, 1), count=2, size=6, sha256=bytes(32))
    assert await bob.inbox() == []
    assert len(await stored_parts(bob)) == 1
    check_told(bob.reasons(), "FILE_REFUSED")


@pytest.mark.parametrize(
    "lie",
    [{"index": 2}, {"index": 2**32 - 1}, {"count": 0}, {"count": 7}, {"count": 2**32 - 1}, {"name": "n" * 1025}],
    ids=str,
)
async def test_a_part_that_no_file_has(bob: Any, mallory: Uploader, lie: dict[str, Any]) -> None:
    await mallory.part(b"abc", **{"count": 2, "size": 6, **lie})
    assert await bob.inbox() == []
    assert await stored_parts(bob) == []
    check_told(bob.reasons(), "KEY_STORE_CONFLICT")


async def test_a_part_without_bytes(bob: Any, mallory: Uploader) -> None:
    await mallory.part(b"", count=2, size=6)
    assert await bob.inbox() == []
    assert await stored_parts(bob) == []
    check_told(bob.reasons(), "KEY_STORE_CONFLICT")


async def test_a_part_that_comes_again_with_other_bytes(bob: Any, mallory: Uploader) -> None:
    whole = b"abcdef"
    for data in (b"abc", b"ABC"):
        await mallory.part(data, count=2, size=6, sha256=sha256(whole))
    await mallory.part(b"def", index=1, count=2, size=6, sha256=sha256(whole))
    assert [message.file.size for message in await bob.inbox()] == [6]
    check_told(bob.reasons(), "KEY_STORE_CONFLICT")


async def test_somebody_else_who_completes_a_file(bob: Any, mallory: Uploader, services: Services) -> None:
    alice = Uploader(Peer.enroll(services, "alice"), bob)
    whole = sha256(b"abcdef")
    await alice.part(b"abc", count=2, size=6, sha256=whole)
    await mallory.part(b"def", index=1, count=2, size=6, sha256=whole)
    assert await bob.inbox() == []
    await alice.part(b"def", index=1, count=2, size=6, sha256=whole)
    assert [message.sender for message in await bob.inbox()] == [alice.peer.pair.address]
    check_untold(bob.reasons())


async def test_incomplete_files_without_end(bob: Any, mallory: Uploader, services: Services) -> None:
    """They take what a limit says; another's file, which is not even begun, still finds room."""
    await tighten(bob, files__incomplete_file_size=20_000)
    for _ in range(20):
        await mallory.part(bytes(500), file_id=os.urandom(16), count=2, size=1_000)
    alice = Uploader(Peer.enroll(services, "alice"), bob)
    await alice.part(b"abc", count=2, size=6, sha256=sha256(b"abcdef"))
    assert await bob.inbox() == []
    assert len(await stored_parts(bob)) < 10
    check_told(bob.reasons(), "FILE_DROPPED")
    await alice.part(b"def", index=1, count=2, size=6, sha256=sha256(b"abcdef"))
    assert [message.sender for message in await bob.inbox()] == [alice.peer.pair.address]


async def test_a_file_larger_than_the_disk(bob: Any, mallory: Uploader) -> None:
    await mallory.part(b"abc", count=2, size=2**62)
    assert await bob.inbox() == []
    assert await stored_parts(bob) == []
    check_told(bob.reasons(), "KEY_STORE_FULL")
