"""Files too large for one envelope: in parts, a few under way at a time, resumed where they broke."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.client.arguments import FILE_ID_BYTES
from keypost.client.file_parts import (
    FileCancelledError,
    FileChangedError,
    begin,
    describe,
    is_reference,
    read_part,
    size_up_to,
)
from keypost.client.locks import Locks
from keypost.client.results import FileTransfer, SentFile
from keypost.client.send_refusals import NO_ROOM, is_final
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError, KeypostError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.client.context import Context
    from keypost.client.file_parts import Described
    from keypost.client.results import OnTransfer, Progress
    from keypost.client.sending import Sending
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import Transfer

PARTS_UNDER_WAY = 8


class Files:
    """Sends files, and goes on with those that a break, a crash or a restart interrupted.

    What is on its way is in the key store: the transfer, and in the outbox a reference to each part that is under way.
    So a part keeps its id and counter however often it is handed over. Files to one user go one after the other;
    messages that are sent to him meanwhile go between the parts.

    Args:
        context: What all parts share.
        sending: Sends messages.
    """

    def __init__(self, context: Context, sending: Sending) -> None:
        self._context = context
        self._store = context.store
        self._sending = sending
        self._locks = Locks()

    async def send(self, recipient: str, path: Path, media_type: str, progress: Progress | None) -> SentFile:
        """Send a file, or go on with it; see Client.send_file."""
        described = await asyncio.to_thread(describe, path)
        file_id, now = self._context.random(FILE_ID_BYTES), self._context.clock()
        self._sending.check_recipient(recipient)
        async with self._locks.of(recipient):
            fresh = begin(described, file_id, recipient, media_type, now)
            return await self._go_on(await self._store.transact(_begin_or_take_up, fresh, described), path, progress)

    async def resume(self, file_id: bytes, progress: OnTransfer | None) -> SentFile:
        """Go on with a file that is on its way."""
        transfer = await self._find(file_id)
        described = await asyncio.to_thread(describe, Path(transfer.path))

        def tell(done: int, _size: int) -> None:
            if progress is not None:
                progress(_as_result(transfer, done))

        async with self._locks.of(transfer.recipient):
            # It may have been finished meanwhile.
            await self._find(file_id)
            taken_up = await self._store.transact(_take_up, transfer, described)
            return await self._go_on(taken_up, Path(transfer.path), tell)

    async def resume_all(self, progress: OnTransfer | None) -> tuple[SentFile, ...]:
        """Go on with all files that are on their way, the oldest first; see Client.resume_files."""
        sent: list[SentFile] = []
        failure: KeypostError | None = None
        for transfer in await self._store.run(lambda store: store.transfers.all()):
            try:
                sent.append(await self.resume(transfer.file_id, progress))
            except KeypostError as error:
                self._context.tell("warning", error.reason, f"{transfer.name} is not sent: {error}")
                failure = failure or error
        if failure is not None:
            raise failure
        return tuple(sent)

    async def transfers(self) -> tuple[FileTransfer, ...]:
        """Return the files that are on their way; see Client.file_transfers."""
        return await self._store.run(_list)

    async def cancel(self, file_id: bytes) -> None:
        """Give up a file that is on its way; see Client.cancel_file."""
        await self._find(file_id)
        await self._store.run(lambda store: store.transfers.remove(file_id))

    async def _find(self, file_id: bytes) -> Transfer:
        transfer = await self._store.run(lambda store: store.transfers.find(file_id))
        if transfer is None:
            raise InvalidArgumentError("no file with this id is on its way", field="file_id")
        return transfer

    async def _go_on(self, transfer: Transfer | None, path: Path, progress: Progress | None) -> SentFile:
        if transfer is None:
            raise FileChangedError(str(path))
        left: Transfer | None = transfer
        try:
            while left is not None:
                await self._send_parts(left, progress)
                left = await self._store.transact(_finish, transfer.file_id)
        except KeypostError as error:
            if _is_over(error):
                # Nothing of it is of any use, or no part of it will ever be taken.
                await self._store.run(lambda store: store.transfers.remove(transfer.file_id))
            raise
        return SentFile(transfer.file_id, transfer.size, transfer.sha256, transfer.count)

    async def _send_parts(self, transfer: Transfer, progress: Progress | None) -> None:
        """Send what is left of a file; parts that are in the outbox go before the others by themselves."""
        under_way: deque[asyncio.Task[int]] = deque()
        try:
            for index in range(transfer.next, transfer.count):
                content = await asyncio.to_thread(read_part, transfer, index)
                if len(under_way) == PARTS_UNDER_WAY:
                    _tell(progress, transfer, await under_way.popleft())
                under_way.append(asyncio.create_task(self._send_part(transfer, index, content)))
            while under_way:
                _tell(progress, transfer, await under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        if transfer.next == transfer.count:
            await self._sending.drain(transfer.recipient, partial(_last_kept, transfer=transfer))
            _tell(progress, transfer, transfer.count)

    async def _send_part(self, transfer: Transfer, index: int, content: pb.Content) -> int:
        """Send a part, and return how many delivery has then: those before it have gone before it."""
        await self._sending.send(transfer.recipient, content)
        return index + 1


def _tell(progress: Progress | None, transfer: Transfer, parts: int) -> None:
    if progress is not None:
        progress(size_up_to(transfer, parts), transfer.size)


def _is_over(error: KeypostError) -> bool:
    if isinstance(error, RefusedError):
        return is_final(error) and error.reason not in NO_ROOM
    return isinstance(error, FileChangedError)


def _begin_or_take_up(store: KeyStore, fresh: Transfer, described: Described) -> Transfer | None:
    """Return the transfer of this file to this user, begun now or before; None if the file has changed since."""
    for held in store.transfers.all():
        if (held.recipient, held.path) == (fresh.recipient, fresh.path):
            return _take_up(store, held, described)
    store.transfers.add(fresh)
    return fresh


def _take_up(store: KeyStore, held: Transfer, described: Described) -> Transfer | None:
    if not described.is_same(held):
        store.transfers.remove(held.file_id)
        return None
    store.transfers.note_time(held.file_id, described.modify_time_ns)
    return store.transfers.find(held.file_id)


def _finish(store: KeyStore, file_id: bytes) -> Transfer | None:
    """Forget a transfer all of whose parts have gone out; return it if some went out empty, and are to be begun again.

    Raises:
        FileCancelledError: It was given up meanwhile.
    """
    transfer = store.transfers.find(file_id)
    if transfer is None:
        raise FileCancelledError("the transfer of this file was cancelled", field="path")
    if transfer.next < transfer.count:
        return transfer
    store.transfers.remove(file_id)
    return None


def _list(store: KeyStore) -> tuple[FileTransfer, ...]:
    transfers = store.transfers.all()
    kept = _kept_parts(store)
    return tuple(_as_result(transfer, _sent(transfer, kept.get(transfer.file_id, []))) for transfer in transfers)


def _sent(transfer: Transfer, kept: Sequence[int]) -> int:
    return size_up_to(transfer, transfer.next - sum(index < transfer.next for index in kept))


def _kept_parts(store: KeyStore) -> dict[bytes, list[int]]:
    """Return which parts of each file are in the outbox."""
    kept: dict[bytes, list[int]] = {}
    after = b""
    while page := store.outbox.page(after=after):
        for content in (pb.Content.FromString(message.content) for message in page):
            if is_reference(content):
                kept.setdefault(content.file_part.file_id, []).append(content.file_part.index)
        after = page[-1].message_id
    return kept


def _last_kept(store: KeyStore, transfer: Transfer) -> int:
    """Return the highest counter of the parts of a file that are in the outbox; 0 if none is."""
    last = after = 0
    while page := store.outbox.to(transfer.recipient, after=after):
        after = page[-1].counter
        for message in page:
            content = pb.Content.FromString(message.content)
            if is_reference(content) and content.file_part.file_id == transfer.file_id:
                last = message.counter
    return last


def _as_result(transfer: Transfer, done: int) -> FileTransfer:
    return FileTransfer(
        file_id=transfer.file_id,
        username=transfer.recipient,
        path=Path(transfer.path),
        name=transfer.name,
        size=transfer.size,
        sent=done,
        create_time=transfer.create_time,
    )
