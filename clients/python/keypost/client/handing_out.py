"""From the local inbox to the application."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from keypost.client.results import Received, ReceivedFile, SetAside
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.keystore.errors import KeyStoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from keypost.client.context import Context
    from keypost.client.pump import Pump
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import InboxMessage


ATTEMPTS = 5
"""How often a message is handed out that is never handled."""
HANDLED_TOO_OFTEN = "HANDLED_TOO_OFTEN"


class HandingOut:
    """Hands messages out of the inbox.

    Args:
        context: What all parts share.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._brought_back = False

    async def messages(self, pump: Pump, *, follow: bool) -> AsyncIterator[Received]:
        """Yield what is in the inbox and what comes in; see Client.receive."""
        done: Received | None = None
        after = 0
        while True:
            if pump.stopped and done is None:
                return
            caught_up, failure = pump.caught_up, pump.failure
            pump.changed.clear()
            if self._brought_back:
                # Before what was handed out already.
                self._brought_back, after = False, 0
            row = await self._store.transact(_advance, done, after)
            done = None
            if row is not None and _is_too_often(row):
                after = row.sequence
                self._tell_set_aside(row)
            elif row is not None:
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

    async def bring_back(self) -> int:
        """Hand out again what was never handled, and return how many messages these are."""
        count = await self._store.run(lambda store: store.inbox.bring_back())
        self._brought_back = count > 0
        return count

    async def list_set_aside(self, limit: int) -> list[SetAside]:
        """Return what was never handled and is handed out no more, the oldest first, at most ``limit``."""
        rows = await self._store.run(lambda store: store.inbox.page_set_aside(limit=limit))
        return [_as_set_aside(row) for row in rows]

    def _tell_set_aside(self, row: InboxMessage) -> None:
        self._context.tell(
            "set_aside",
            HANDLED_TOO_OFTEN,
            f"a message of {row.sender} was handed out {ATTEMPTS} times and never handled: it is kept, and handed out "
            "again once it is retried",
            sender=str(row.sender),
            message_id=str(UUID(bytes=row.message_id)),
        )

    def _received(self, row: InboxMessage) -> Received:
        content = pb.Content.FromString(row.content)
        part = content.file_part if content.HasField("file_part") else None
        copy = content.sent_copy if content.HasField("sent_copy") else None
        message = content.message if copy is None else copy.message
        return Received(
            sender=row.sender,
            message_id=UUID(bytes=row.message_id),
            counter=row.counter,
            send_time=row.send_time,
            accept_time=row.accept_time,
            key_id=row.key_id,
            media_type=message.media_type if part is None else part.media_type,
            body=message.body,
            redelivered=row.redelivered,
            attempts=row.attempts,
            missed=row.missed,
            file=None if part is None else self._file(row, part),
            sequence=row.sequence,
            verified=row.verified,
            copy_to=None if copy is None else copy.recipient_username,
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


def _is_too_often(row: InboxMessage) -> bool:
    """Return whether the application was handed a message before as often as it is handed any."""
    return row.attempts > ATTEMPTS


def _as_set_aside(row: InboxMessage) -> SetAside:
    content = pb.Content.FromString(row.content)
    size = content.file_part.size if content.HasField("file_part") else len(content.message.body)
    return SetAside(HANDLED_TOO_OFTEN, row.sender.username, row.accept_time, size, UUID(bytes=row.message_id))


def _advance(store: KeyStore, done: Received | None, after: int) -> InboxMessage | None:
    # One transaction a message, not two: each waits for the disk.
    if done is not None:
        _set_handled(store, done)
    row = store.inbox.next_unhandled(after)
    if row is not None and _is_too_often(row):
        store.inbox.set_aside(row.sequence)
    return row


def _set_handled(store: KeyStore, message: Received) -> None:
    store.inbox.set_handled(message.sequence)
    if message.file is not None:
        store.files.remove(message.sender, message.file.file_id)
