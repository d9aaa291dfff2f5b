"""From the local inbox to the application."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from keypost.client.results import Received, ReceivedFile
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keystore.errors import KeyStoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from keypost.client.pump import Pump
    from keypost.client.store_worker import StoreWorker
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import InboxMessage


class HandingOut:
    """Hands messages out of the inbox.

    Args:
        store: The key store.
    """

    def __init__(self, store: StoreWorker) -> None:
        self._store = store

    async def messages(self, pump: Pump, *, follow: bool) -> AsyncIterator[Received]:
        """Yield what is in the inbox and what comes in; see Client.receive."""
        done: Received | None = None
        after = 0
        while True:
            if pump.stopped and done is None:
                return
            caught_up, failure = pump.caught_up, pump.failure
            pump.changed.clear()
            row = await self._store.transact(_advance, done, after)
            done = None
            if row is not None:
                done, after = self._received(row), row.sequence
                yield done
            elif failure is not None:
                raise failure
            elif pump.stopped or (caught_up and not follow):
                return
            else:
                await pump.changed.wait()

    async def set_handled(self, message: Received) -> None:
        """Note that the application is done with a message; a file's bytes go."""
        await self._store.transact(_set_handled, message)

    def _received(self, row: InboxMessage) -> Received:
        content = pb.Content.FromString(row.content)
        part = content.file_part if content.HasField("file_part") else None
        return Received(
            sender=row.sender,
            message_id=UUID(bytes=row.message_id),
            counter=row.counter,
            send_time=row.send_time,
            accept_time=row.accept_time,
            key_id=row.key_id,
            media_type=content.message.media_type if part is None else part.media_type,
            body=content.message.body,
            redelivered=row.redelivered,
            missed=row.missed,
            file=None if part is None else self._file(row, part),
            sequence=row.sequence,
            verified=row.verified,
        )

    def _file(self, row: InboxMessage, part: pb.FilePart) -> ReceivedFile:
        file_id = part.file_id
        return ReceivedFile(
            file_id=file_id,
            name=part.name,
            size=part.size,
            sha256=part.sha256,
            parts=part.count,
            _chunks=lambda: self._chunks(row, file_id),
        )

    async def _chunks(self, row: InboxMessage, file_id: bytes) -> AsyncGenerator[bytes]:
        parts = await self._store.run(lambda store: store.files.read(row.sender, file_id))
        size = 0
        while (data := await self._store.run(lambda _store: next(parts, None))) is not None:
            size += len(data)
            yield data
        if size != pb.Content.FromString(row.content).file_part.size:
            raise KeyStoreUnavailableError("the bytes of this file are gone: it counts as handled")


def _advance(store: KeyStore, done: Received | None, after: int) -> InboxMessage | None:
    # One transaction a message, not two: each waits for the disk.
    if done is not None:
        _set_handled(store, done)
    return store.inbox.next_unhandled(after)


def _set_handled(store: KeyStore, message: Received) -> None:
    store.inbox.set_handled(message.sequence)
    if message.file is not None:
        store.files.remove(message.sender, message.file.file_id)
