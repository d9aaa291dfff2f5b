"""Files go on where they broke: after a break, a full mailbox, a restart."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.client.file_parts import PART_BYTES
from keypost.client.files import PARTS_UNDER_WAY
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError
from keypost.protocol.encoding import sha256
from support.people import FOR_EVER, IMPATIENT
from support.simulation import failing
from support.surfaces import read

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.protocol.identifiers import Address
    from support.simulation import Fault, Services

PARTS = 20
SIZE = (PARTS - 1) * PART_BYTES + 7
AWAY = failing(grpc.StatusCode.UNAVAILABLE, "MAILBOXES_UNAVAILABLE")
FULL = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL")


async def let_pass(_context: Any) -> None:
    """Let a part pass."""


def passing(parts: int, fault: Fault, times: int = FOR_EVER) -> list[Fault]:
    """Return faults that let some parts pass and meet those that follow."""
    return [let_pass] * parts + [fault] * times


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "photo.jpg"
    file.write_bytes(os.urandom(SIZE))
    return file


def size_of(path: Path) -> int:
    return path.stat().st_size


def contents(path: Path) -> bytes:
    return path.read_bytes()


def change(path: Path) -> None:
    """Change one bit, so that not even the time tells."""
    changed, before = bytearray(path.read_bytes()), path.stat()
    changed[5] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def break_off(person: Any, services: Services, path: Path, parts: int, fault: Fault = AWAY) -> None:
    """Have a file break off once delivery has some parts of it; then all is well again."""
    services.faults["Send"] = passing(parts, fault)
    with pytest.raises(KeypostError):
        await person.client.send_file("bob", path)
    (transfer,) = await person.client.file_transfers()
    assert (transfer.username, transfer.path, transfer.name) == ("bob", path, path.name)
    assert (transfer.sent, transfer.size) == (parts * PART_BYTES, size_of(path))


def counters(mailbox: Address, services: Services) -> list[int]:
    """Return the counters of what is in a mailbox, in its order: each id is there once."""
    envelopes = [pb.Envelope.FromString(delivery.envelope) for delivery in services.mailboxes[mailbox]]
    headers = [pb.Header.FromString(envelope.header) for envelope in envelopes]
    assert len({header.message_id for header in headers}) == len(headers)
    return [header.counter for header in headers]


async def check_whole(bob: Any, path: Path) -> None:
    """Fail unless the file is what Bob gets, once, with nothing missing before it."""
    received = []
    async for message in bob.client.receive(follow=False):
        received.append(message)
        assert await read(message.file) == contents(path)
    assert [(message.file.name, message.missed) for message in received] == [(path.name, 0)]


async def outbox_of(person: Any) -> list[int]:
    rows = await person.client._parts.context.store.run(lambda store: store.outbox.page())
    return [len(row.content) for row in rows]


async def test_a_file_that_broke_goes_on_where_it_was(impatient: Any, bob: Any, services: Services, path: Path) -> None:
    await break_off(impatient, services, path, 3)
    kept = await outbox_of(impatient)
    assert 0 < len(kept) <= PARTS_UNDER_WAY
    assert sum(kept) < 200, "the bytes of a part are in the file, not in the outbox too"
    services.faults["Send"] = []
    done: list[int] = []
    sent = await impatient.client.send_file("bob", path, progress=lambda sent, _: done.append(sent))
    assert (sent.parts, sent.size) == (PARTS, SIZE)
    assert min(done) > 3 * PART_BYTES
    assert max(done) == sent.size
    assert await impatient.client.file_transfers() == ()
    assert counters(bob.client.address, services) == list(range(1, PARTS + 1))
    await check_whole(bob, path)


async def test_after_a_restart_it_goes_on_by_hand(
    impatient: Any, bob: Any, services: Services, path: Path, open_client: Any
) -> None:
    await break_off(impatient, services, path, 3)
    await impatient.client.close()
    services.faults["Send"] = []
    alice = await open_client("alice", bundle=None)
    seen: list[Any] = []
    (sent,) = await alice.client.resume_files(progress=seen.append)
    assert (sent.file_id, sent.size) == (seen[-1].file_id, seen[-1].sent)
    assert await alice.client.file_transfers() == ()
    assert await alice.client.resume_files() == ()
    assert counters(bob.client.address, services) == list(range(1, PARTS + 1))
    await check_whole(bob, path)


async def test_parts_whose_answers_were_lost_keep_their_ids(
    impatient: Any, bob: Any, services: Services, path: Path, open_client: Any
) -> None:
    services.lost_answers["Send"] = FOR_EVER
    with pytest.raises(UnreachableError):
        await impatient.client.send_file("bob", path)
    services.lost_answers["Send"] = 0
    await impatient.client.close()
    alice = await open_client("alice", bundle=None)
    await alice.client.send_file("bob", path)
    assert counters(bob.client.address, services) == list(range(1, PARTS + 1))
    await check_whole(bob, path)


async def test_a_file_all_of_whose_parts_are_under_way_is_waited_for(
    impatient: Any, bob: Any, services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "short"
    path.write_bytes(os.urandom(2 * PART_BYTES))
    await break_off(impatient, services, path, 0)
    with pytest.raises(KeypostError):
        await impatient.client.send_file("bob", path)
    assert len(await impatient.client.file_transfers()) == 1
    services.faults["Send"] = []
    assert (await impatient.client.send_file("bob", path)).parts == 2
    await check_whole(bob, path)


async def test_a_mailbox_that_is_full_for_a_while_delays_the_file(
    alice: Any, bob: Any, services: Services, path: Path
) -> None:
    services.faults["Send"] = passing(3, FULL, 5)
    assert (await alice.client.send_file("bob", path)).parts == PARTS
    assert counters(bob.client.address, services) == list(range(1, PARTS + 1))
    await check_whole(bob, path)


@pytest.mark.parametrize("reason", ["MAILBOX_FULL", "SENDER_SHARE_FULL"])
async def test_a_mailbox_that_stays_full_is_said_and_the_file_goes_on_later(
    impatient: Any, bob: Any, services: Services, path: Path, reason: str
) -> None:
    await break_off(impatient, services, path, 3, failing(grpc.StatusCode.RESOURCE_EXHAUSTED, reason))
    with pytest.raises(RefusedError, match=reason):
        await impatient.client.resume_files()
    services.faults["Send"] = []
    assert [sent.parts for sent in await impatient.client.resume_files()] == [PARTS]
    assert counters(bob.client.address, services) == list(range(1, PARTS + 1))
    await check_whole(bob, path)


async def test_a_file_that_changed_meanwhile_is_refused_and_begins_anew(
    impatient: Any, bob: Any, services: Services, path: Path, open_client: Any
) -> None:
    await break_off(impatient, services, path, 3)
    await impatient.client.close()
    services.faults["Send"] = []
    change(path)
    alice = await open_client("alice", bundle=None)
    with pytest.raises(InvalidArgumentError, match="changed") as caught:
        await alice.client.send_file("bob", path)
    assert caught.value.reason == "FILE_CHANGED"
    assert await alice.client.file_transfers() == ()
    await alice.client.send("bob", "after")
    await alice.client.send_file("bob", path)
    messages = await bob.inbox()
    # Of the counters that were taken none is missing.
    assert [(message.text, message.missed) for message in messages[:1]] == [("after", 0)]
    assert [(message.file.sha256, message.missed) for message in messages[1:]] == [(sha256(contents(path)), 0)]


async def test_a_file_that_was_only_touched_goes_on(impatient: Any, bob: Any, services: Services, path: Path) -> None:
    await break_off(impatient, services, path, 3)
    services.faults["Send"] = []
    os.utime(path)
    await impatient.client.resume_files()
    await check_whole(bob, path)


async def test_a_file_that_cannot_be_read_for_a_while_keeps_its_place(
    impatient: Any, bob: Any, services: Services, path: Path, open_client: Any, tmp_path: Path
) -> None:
    await break_off(impatient, services, path, 3)
    await impatient.client.close()
    services.faults["Send"] = []
    away = shutil.move(path, tmp_path / "away")
    alice = await open_client("alice", bundle=None)
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        await alice.client.resume_files()
    await alice.client.send("bob", "meanwhile")
    (transfer,) = await alice.client.file_transfers()
    assert transfer.sent == 3 * PART_BYTES
    shutil.move(away, path)
    await alice.client.resume_files()
    messages = await bob.inbox()
    assert [message.missed for message in messages] == [0, 0]
    assert [message.text for message in messages if message.file is None] == ["meanwhile"]


async def test_one_file_that_fails_keeps_no_other_from_going_on(
    impatient: Any, bob: Any, services: Services, path: Path, tmp_path: Path
) -> None:
    await break_off(impatient, services, path, 3)
    second = tmp_path / "second"
    second.write_bytes(b"second")
    with pytest.raises(KeypostError):
        await impatient.client.send_file("bob", second)
    services.faults["Send"] = []
    shutil.move(path, tmp_path / "away")
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        await impatient.client.resume_files()
    assert impatient.reasons("warning") == ["INVALID_FIELD"]
    assert [transfer.path for transfer in await impatient.client.file_transfers()] == [path]
    assert [message.file.name for message in await bob.inbox()] == ["second"]


async def test_a_file_that_is_cancelled_leaves_no_gap_and_blocks_nobody(
    impatient: Any, bob: Any, services: Services, path: Path, open_client: Any
) -> None:
    await break_off(impatient, services, path, 3, FULL)
    (transfer,) = await impatient.client.file_transfers()
    await impatient.client.cancel_file(transfer.file_id)
    assert await impatient.client.file_transfers() == ()
    with pytest.raises(InvalidArgumentError, match="no file with this id"):
        await impatient.client.cancel_file(transfer.file_id)
    with pytest.raises(InvalidArgumentError, match="no file with this id"):
        await impatient.client.resume_files(transfer.file_id)
    await impatient.client.close()
    services.faults["Send"] = []
    alice = await open_client("alice", bundle=None)
    await alice.client.send("bob", "after")
    assert [(message.text, message.missed) for message in await bob.inbox()] == [("after", 0)]


async def test_a_file_can_be_cancelled_while_it_is_sent(alice: Any, bob: Any, services: Services, path: Path) -> None:
    third = asyncio.Event()
    cancelled = asyncio.Event()

    async def hold(_context: Any) -> None:
        third.set()
        await cancelled.wait()

    services.faults["Send"] = passing(2, hold, 1)
    sending = asyncio.create_task(alice.client.send_file("bob", path))
    await third.wait()
    (transfer,) = await alice.client.file_transfers()
    await alice.client.cancel_file(transfer.file_id)
    cancelled.set()
    with pytest.raises(InvalidArgumentError) as caught:
        await sending
    assert caught.value.reason == "FILE_CANCELLED"
    await alice.client.send("bob", "after")
    assert [(message.text, message.missed) for message in await bob.inbox()] == [("after", 0)]


@pytest.mark.usefixtures("bob")
async def test_a_file_to_nobody_is_not_on_its_way(alice: Any, path: Path) -> None:
    with pytest.raises(RefusedError, match="USER_NOT_FOUND"):
        await alice.client.send_file("nobody", path)
    assert await alice.client.file_transfers() == ()


async def test_the_same_file_goes_to_two_users_side_by_side(
    impatient: Any, bob: Any, services: Services, path: Path, open_client: Any
) -> None:
    carol = await open_client("carol", retries=IMPATIENT)
    await carol.client.enroll("carol")
    await break_off(impatient, services, path, 3)
    services.faults["Send"] = []
    await impatient.client.send_file("carol", path)
    assert [transfer.username for transfer in await impatient.client.file_transfers()] == ["bob"]
    await impatient.client.send_file("bob", path)
    for person in (bob, carol):
        await check_whole(person, path)
