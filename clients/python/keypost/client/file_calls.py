"""The calls of a client about files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.arguments import check_file_id, read_media_type, read_path
from keypost.client.base import ClientBase
from keypost.client.results import OCTETS
from keypost.protocol.identifiers import check_username

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.client.results import FileTransfer, OnTransfer, Progress, SentFile


class FileCalls(ClientBase):
    """Files: sent in parts, and gone on with where they broke."""

    async def send_file(
        self, username: str, path: Path, *, media_type: str = OCTETS, progress: Progress | None = None
    ) -> SentFile:
        """Send a file of any size in parts.

        If it breaks, or the process ends, the same call goes on where it was, and so does ``resume_files``; until then
        ``file_transfers`` shows it. The file must not change before it has arrived: then FILE_CHANGED is raised, what
        went out is of no use, and the next call begins anew. While nobody makes room in a full mailbox, it waits as
        long as for a service that is away.

        Args:
            username: The recipient.
            path: The file. Its name goes along, without the folder.
            media_type: What it is.
            progress: Called with the bytes done and the bytes in all.

        Returns:
            What was sent.

        Raises:
            InvalidArgumentError: an argument cannot be right, or the file cannot be read, or changed.
            RefusedError: MAILBOX_FULL, SENDER_SHARE_FULL: go on once the recipient has read; and others as ``send``.
            KeypostError: as ``send``; go on once that is mended.
        """
        async with self._working():
            check_username(username)
            read_media_type(media_type)
            file = read_path(path)
            return await self._parts.files.send(username, file, media_type, progress)

    async def file_transfers(self) -> tuple[FileTransfer, ...]:
        """Return the files that are on their way and not sent yet, the oldest first."""
        async with self._working(copy_too=True):
            return await self._parts.files.transfers()

    async def resume_files(
        self, file_id: bytes | None = None, *, progress: OnTransfer | None = None
    ) -> tuple[SentFile, ...]:
        """Go on with files that are on their way, one after the other, each where it broke.

        One that fails keeps no other from it: what it failed at is raised in the end, and told as an event of kind
        ``warning`` where several do.

        Args:
            file_id: Only this one.
            progress: Called with a file whenever more of it is sent.

        Returns:
            What was sent.

        Raises:
            InvalidArgumentError: there is no such file on its way, or it cannot be read or has changed.
            KeypostError: as ``send_file``.
        """
        async with self._working():
            if file_id is not None:
                return (await self._parts.files.resume(check_file_id(file_id), progress),)
            return await self._parts.files.resume_all(progress)

    async def cancel_file(self, file_id: bytes) -> None:
        """Give up a file that is on its way. What went out of it comes to nothing at the recipient.

        Args:
            file_id: Which one, of ``file_transfers``.

        Raises:
            InvalidArgumentError: there is no such file on its way.
        """
        async with self._working(copy_too=True):
            await self._parts.files.cancel(check_file_id(file_id))
