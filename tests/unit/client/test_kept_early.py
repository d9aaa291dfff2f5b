"""What is handed over to be sent is kept though it cannot be sealed yet, or has no room: a crash does not lose it."""

from __future__ import annotations

import asyncio
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pytest

from keypost.client import early_keeper, file_parts, lanes, outgoing
from keypost.client import files as client_files
from keypost.client.arguments import LARGEST_BODY
from keypost.client.file_parts import PART_BYTES, FileChangedError, read_part
from keypost.client.files import PARTS_UNDER_WAY, Files
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError, UnreachableError
from keypost.keystore.errors import KeyStoreFullError
from keypost.keystore.values import Totals, Transfer
from keypost.protocol.envelope import MOST_ENVELOPE_BYTES
from keypost.protocol.identifiers import conversation_of
from support.delivery_model import Fate, Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from keypost.keystore.port import KeyStore

LONG = 20
AWAY = repeat(True)  # noqa: FBT003


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender("bob")
    await sender.start()
    yield sender
    await sender.sending.close()
    await sender.worker.close()


def send(sender: Sender, *bodies: str, to: str = "bob") -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(sender.sending.send(to, sender.text(body))) for body in bodies]


async def begin_again(sender: Sender, *, away: Iterator[bool]) -> None:
    """Open the client anew, with a directory that is away like this."""
    sender.away = away
    await sender.crash()
    await sender.start()


async def until_kept(sender: Sender, count: int, to: str = "bob") -> None:
    async with asyncio.timeout(LONG):
        while len(await sender.worker.run(lambda store: store.outbox.to(to, limit=count))) < count:
            pass


async def test_what_waits_for_keys_outlives_a_crash(sender: Sender) -> None:
    await begin_again(sender, away=AWAY)
    calls = send(sender, "one", "two", "three")
    await until_kept(sender, 3)
    await sender.crash()
    await asyncio.gather(*calls, return_exceptions=True)
    sender.away = iter(())
    await sender.start()
    assert await sender.sending.flush() == ()
    sender.delivery.check("bob")
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == [1, 2, 3]


async def test_what_waits_for_keys_goes_out_in_order_and_its_sender_is_told(sender: Sender) -> None:
    await begin_again(sender, away=chain([False] * 2, [True] * 8))
    first = await sender.sending.send("bob", sender.text("first"))
    later = await asyncio.wait_for(asyncio.gather(*send(sender, "second", "third")), LONG)
    assert [sent.counter for sent in (first, *later)] == [1, 2, 3]
    sender.delivery.check("bob")
    assert sender.events == []
    assert await sender.sending.outbox() == ()


async def test_what_waits_for_room_outlives_a_crash(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_UNANSWERED", 2)
    monkeypatch.setattr(lanes, "MOST_TOGETHER", 2)
    monkeypatch.setattr(early_keeper, "KEEP_AFTER", 0.001)
    sender.delivery.turns = iter([10**9])
    calls = send(sender, *(str(number) for number in range(7)))
    await until_kept(sender, 7)
    await sender.crash()
    await asyncio.gather(*calls, return_exceptions=True)
    sender.delivery.turns = iter(())
    await sender.start()
    while await sender.sending.flush():
        pass
    sender.delivery.check("bob")
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == list(range(1, 8))


async def test_a_user_who_does_not_exist_leaves_no_gap_where_it_is_known_at_once(sender: Sender) -> None:
    with pytest.raises(RefusedError, match="no such user"):
        await sender.sending.send("nobody", sender.text("?"))
    assert sender.store.counters.next_send(conversation_of("alice", "nobody")) == 1


async def test_what_was_kept_for_a_user_who_turns_out_not_to_exist_is_given_up(sender: Sender) -> None:
    await begin_again(sender, away=iter([True] * 3))
    (call,) = send(sender, "?", to="nobody")
    with pytest.raises(RefusedError, match="no such user"):
        await asyncio.wait_for(call, LONG)
    assert await sender.sending.flush() == ()


async def test_who_waited_long_enough_is_told_that_it_is_kept() -> None:
    impatient = Sender("bob", patience=0.05)
    impatient.away = AWAY
    await impatient.start()
    with pytest.raises(UnreachableError):
        await impatient.sending.send("bob", impatient.text("one"))
    assert [event.kind for event in impatient.events] == ["waiting"]
    await impatient.sending.close()
    await impatient.worker.close()


async def test_the_largest_message_and_what_is_behind_it_outlive_a_crash(sender: Sender) -> None:
    await begin_again(sender, away=AWAY)
    calls = send(sender, "one", "x" * LARGEST_BODY, "three")
    await until_kept(sender, 3)
    await sender.crash()
    await asyncio.gather(*calls, return_exceptions=True)
    sender.away = iter(())
    await sender.start()
    assert await sender.sending.flush() == ()
    sender.delivery.check("bob")
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == [1, 2, 3]
    assert [event for event in sender.events if event.kind == "error"] == []


async def test_what_is_behind_a_file_outlives_a_crash_as_its_parts_do(sender: Sender, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (2 * PART_BYTES + 1))
    await begin_again(sender, away=AWAY)
    files = Files(sender.sending._context, sender.sending)
    file = asyncio.create_task(files.send("bob", path, "a/b", None))
    await until_kept(sender, 3)
    (behind,) = send(sender, "behind")
    await until_kept(sender, 4)
    await sender.crash()
    await asyncio.gather(file, behind, return_exceptions=True)
    sender.away = iter(())
    await sender.start()
    (left,) = await sender.worker.run(lambda store: store.transfers.all())
    assert (left.next, left.count) == (3, 3)
    files = Files(sender.sending._context, sender.sending)
    assert (await files.resume(left.file_id, None)).parts == 3
    assert await sender.sending.flush() == ()
    sender.delivery.check("bob")
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == [1, 2, 3, 4]


async def test_a_file_that_goes_on_does_not_wait_for_what_is_sent_meanwhile(sender: Sender, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2 * PART_BYTES)
    await begin_again(sender, away=AWAY)
    file = asyncio.create_task(Files(sender.sending._context, sender.sending).send("bob", path, "a/b", None))
    await until_kept(sender, 2)
    await sender.crash()
    await asyncio.gather(file, return_exceptions=True)
    sender.away = iter(())
    await sender.start()
    (left,) = await sender.worker.run(lambda store: store.transfers.all())
    # Each part is a batch, and so is what is behind them, which is too large for theirs: it is never answered.
    sender.delivery.turns = iter([0, 0, 10**9])
    going = asyncio.create_task(Files(sender.sending._context, sender.sending).resume(left.file_id, None))
    (behind,) = send(sender, "behind" * 20_000)
    assert (await asyncio.wait_for(going, LONG)).parts == 2
    assert not behind.done()
    await sender.sending.close()
    await asyncio.gather(behind, return_exceptions=True)


async def test_a_file_part_of_which_goes_out_empty_is_not_said_to_be_sent(sender: Sender, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (2 * PART_BYTES + 1))
    answering = asyncio.Event()
    await begin_again(sender, away=iter(lambda: not answering.is_set(), None))
    files = Files(sender.sending._context, sender.sending)
    file = asyncio.create_task(files.send("bob", path, "a/b", None))
    await until_kept(sender, 3)
    path.write_bytes(b"y")
    answering.set()
    with pytest.raises(FileChangedError):
        await asyncio.wait_for(file, LONG)
    sender.delivery.check("bob")
    assert await files.transfers() == ()
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == [1, 2, 3]


async def test_a_part_that_could_not_be_read_goes_again_though_later_ones_were_begun(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (PARTS_UNDER_WAY + 4) * PART_BYTES)
    answering, begun, failing = asyncio.Event(), list[int](), [3]

    def complete_part(transfer: Transfer, index: int) -> Any:
        if index in failing:
            failing.remove(index)
            raise InvalidArgumentError("it cannot be read: too many open files", field="path")
        return read_part(transfer, index)

    def begin_part(transfer: Transfer, index: int) -> Any:
        begun.append(index)
        return read_part(transfer, index)

    monkeypatch.setattr(file_parts, "read_part", complete_part)
    monkeypatch.setattr(client_files, "read_part", begin_part)
    await begin_again(sender, away=iter(lambda: not answering.is_set(), None))
    files = Files(sender.sending._context, sender.sending)
    file = asyncio.create_task(files.send("bob", path, "a/b", None))
    await until_kept(sender, PARTS_UNDER_WAY)
    answering.set()
    assert (await asyncio.wait_for(file, LONG)).parts == PARTS_UNDER_WAY + 4
    assert failing == []
    assert begun == [*range(PARTS_UNDER_WAY + 4), *range(3, PARTS_UNDER_WAY + 4)]
    sender.delivery.check("bob")
    assert await files.transfers() == ()


async def test_what_turns_out_too_large_is_told_and_leaves_no_gap(sender: Sender) -> None:
    answering = asyncio.Event()
    await begin_again(sender, away=iter(lambda: not answering.is_set(), None))
    large, small = send(sender, "x" * MOST_ENVELOPE_BYTES, "small")
    await until_kept(sender, 2)
    answering.set()
    with pytest.raises(InvalidArgumentError, match="too large"):
        await asyncio.wait_for(large, LONG)
    assert (await asyncio.wait_for(small, LONG)).counter == 2
    assert await sender.sending.flush() == ()
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == [1, 2]


async def test_what_has_no_room_in_the_outbox_is_refused_for_that_reason_once_it_waited_long_enough() -> None:
    impatient = Sender("bob", patience=0.05)
    impatient.away = AWAY
    await impatient.start()
    # For what is sent, and as long as nobody knows whether there are other devices, for a copy of it.
    impatient.store.outbox._limit = Totals(3, 10**6)
    kept, refused = send(impatient, "one", "two")
    with pytest.raises(UnreachableError):
        await asyncio.wait_for(kept, LONG)
    with pytest.raises(KeyStoreFullError):
        await asyncio.wait_for(refused, LONG)
    assert len(await impatient.sending.outbox()) == 2
    await impatient.sending.close()
    await impatient.worker.close()


async def test_whoever_waits_is_told_in_time_while_keys_are_asked_for_again() -> None:
    impatient, gone = Sender("bob", patience=0.05), list[bool]()

    def refuse_and_go_away() -> Iterator[Fate]:
        gone.append(True)
        yield Fate.SESSION_STALE

    impatient.away = iter(lambda: bool(gone), None)
    await impatient.start()
    await asyncio.gather(*send(impatient, "one"))
    impatient.delivery.fates = refuse_and_go_away()
    (call,) = send(impatient, "two")
    with pytest.raises(UnreachableError):
        await asyncio.wait_for(call, LONG)
    assert gone
    assert len(await impatient.sending.outbox()) == 1
    await impatient.sending.close()
    await impatient.worker.close()


async def test_large_messages_of_the_outbox_go_a_few_at_a_time(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []

    def load(store: KeyStore, order: Any, sealer: Any, filled: Any) -> None:
        before = len(filled.sealed)
        whole_load(store, order, sealer, filled)
        loaded.append(sum(len(message.content) for _, message, _ in filled.sealed[before:]))

    whole_load = outgoing._load
    monkeypatch.setattr(outgoing, "_load", load)
    await begin_again(sender, away=AWAY)
    calls = send(sender, *["x" * LARGEST_BODY] * 3, "small")
    await until_kept(sender, 4)
    await sender.crash()
    await asyncio.gather(*calls, return_exceptions=True)
    sender.away = iter(())
    await sender.start()
    assert await sender.sending.flush() == ()
    sender.delivery.check("bob")
    assert [header.counter for header in sender.delivery.mailboxes["bob"]] == [1, 2, 3, 4]
    assert 0 < max(loaded) <= lanes.MOST_BYTES_TOGETHER


async def test_whoever_waits_is_told_when_the_client_is_closed_while_its_message_waits_for_its_turn(
    sender: Sender,
) -> None:
    sender.delivery.fates = iter([Fate.STALE])
    (call,) = send(sender, "sealed, and to be sealed again")
    lanes_of = sender.sending._lanes
    async with asyncio.timeout(LONG):
        await until(lambda: "bob" in lanes_of and bool(lanes_of["bob"]._handed))
        lane = lanes_of["bob"]
        async with lane._turn:
            await until(lambda: bool(lane._turn._waiters))
            await lane.close()
        with pytest.raises(KeypostError, match="closed"):
            await call


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until something holds."""
    while not condition():  # noqa: ASYNC110  # nobody tells of what is looked at
        await asyncio.sleep(0)
