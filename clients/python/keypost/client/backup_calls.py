"""The calls of a client about its backups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.arguments import check_passphrase, read_path
from keypost.client.base import ClientBase

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.client.results import Progress
    from keypost.keystore.unlock import Passphrase


class BackupCalls(ClientBase):
    """Backups, made once or kept."""

    async def backup(self, path: Path, passphrase: Passphrase, *, progress: Progress | None = None) -> None:
        """Write all that this profile holds into one file, sealed by a passphrase of its own.

        The client goes on meanwhile; what it does after the backup has begun is not in it. `keypost.restore_profile`
        makes a profile from it, which takes over from this one.

        Args:
            path: The file. Nothing is overwritten; it is there whole, or not at all.
            passphrase: What is to open the backup.
            progress: Called with the bytes done and the bytes in all.

        Raises:
            InvalidArgumentError: an argument cannot be right.
            BackupExistsError: something is at that place already.
            BackupUnavailableError: the file cannot be written.
            KeyStoreError: the profile cannot be read or copied.
        """
        async with self._working(copy_too=True):
            await self._parts.backing_up.make(read_path(path), check_passphrase(passphrase), progress)

    async def set_backup(
        self, path: Path | None, passphrase: Passphrase | None = None, *, progress: Progress | None = None
    ) -> None:
        """Write a backup as ``backup`` does, and rewrite it before each renewal from now on.

        So its key is never older than one renewal, and what waits in the mailbox can be read wherever it is restored.
        If it cannot be rewritten, ``renew`` raises; the automatic renewal is tried again, and in the last tenth of the
        key's lifetime made without, which an event tells. The passphrase is not kept, but what it opens is, sealed.

        Args:
            path: The file, or None to rewrite none any more; the file stays.
            passphrase: What is to open the backup.
            progress: Called with the bytes done and the bytes in all.

        Raises:
            InvalidArgumentError, KeyStoreError: as ``backup``.
        """
        async with self._working():
            if path is None:
                await self._parts.backing_up.forget()
                return
            await self._parts.backing_up.keep(read_path(path), check_passphrase(passphrase), progress)
