"""Backups of the profile: made when asked for, and rewritten before each renewal where one is kept."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keypost.keystore.backup_file import BackupKey
from keypost.keystore.backups import check_free, write_backup
from keypost.keystore.errors import KeyStoreTamperedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.client.context import Context
    from keypost.client.results import Progress
    from keypost.keystore.copies import Snapshot
    from keypost.keystore.port import KeyStore
    from keypost.keystore.unlock import Passphrase

NOTE = "backup"
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Kept:
    """A backup that is rewritten before each renewal.

    Attributes:
        path: The file.
        key: What seals it: kept in the key store, so that nobody has to be asked for the passphrase again.
    """

    path: Path
    key: BackupKey = field(repr=False)


class BackingUp:
    """Writes backups.

    Args:
        context: What all parts share.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    async def make(self, path: Path, passphrase: Passphrase, progress: Progress | None) -> None:
        """Make a backup; see Client.backup."""
        await self._write(await asyncio.to_thread(_new, path, passphrase), progress)

    async def keep(self, path: Path, passphrase: Passphrase, progress: Progress | None) -> None:
        """Make a backup and rewrite it before each renewal; see Client.set_backup."""
        kept = await asyncio.to_thread(_new, Path.cwd() / path, passphrase)
        await self._write(kept, progress)
        await self._context.store.run(_note, kept)

    async def forget(self) -> None:
        """Rewrite no backup any more; the file stays."""
        await self._context.store.run(lambda store: store.profile.set_note(NOTE, None))

    async def kept(self) -> Path | None:
        """Return where the backup is that is rewritten before each renewal."""
        kept = await self._context.store.run(_kept)
        return None if kept is None else kept.path

    async def before_renewal(self) -> None:
        """Rewrite the kept backup, if there is one, now that the pending key pair is in the key store.

        Raises:
            BackupError: it cannot be written, or something else is at its place.
        """
        kept = await self._context.store.run(_kept)
        if kept is not None:
            await self._write(kept, None, replace=True)

    async def _write(self, kept: Kept, progress: Progress | None, *, replace: bool = False) -> None:
        tell = _on_this_loop(progress)
        async with self._lock:
            snapshot = await self._context.store.run(lambda store: store.snapshot(_half(tell)))
            # Off the store's thread: sealing needs the copy alone, and messages go on meanwhile.
            await asyncio.to_thread(_seal, snapshot, kept, self._context.clock(), _other_half(tell), replace=replace)


def _new(path: Path, passphrase: Passphrase) -> Kept:
    # Deriving the key takes long, and so does copying: what is in the way is told first.
    check_free(path)
    return Kept(path, BackupKey.new(passphrase))


def _seal(snapshot: Snapshot, kept: Kept, now: int, progress: Progress, *, replace: bool) -> None:
    # Closed here: whoever is cancelled leaves a thread that goes on with it.
    try:
        write_backup(snapshot, kept.path, kept.key, now, replace=replace, progress=progress)
    finally:
        snapshot.close()


def _on_this_loop(progress: Progress | None) -> Progress:
    if progress is None:
        return lambda _done, _total: None
    loop = asyncio.get_running_loop()
    return lambda done, total: (loop.call_soon_threadsafe(progress, done, total), None)[1]


def _half(progress: Progress) -> Callable[[int, int], None]:
    """Tell the copying as the first half of the bytes."""
    return lambda done, total: progress(done * PAGE_BYTES // 2, total * PAGE_BYTES)


def _other_half(progress: Progress) -> Progress:
    """Tell the sealing as the second half of the bytes."""
    return lambda done, total: progress((total + done) // 2, total)


def _note(store: KeyStore, kept: Kept) -> None:
    values = {
        "path": str(kept.path),
        "key": kept.key.key.hex(),
        "parameters": kept.key.parameters,
        "sealed_key": kept.key.sealed_key.hex(),
    }
    store.profile.set_note(NOTE, json.dumps(values).encode())


def _kept(store: KeyStore) -> Kept | None:
    note = store.profile.note(NOTE)
    if note is None:
        return None
    try:
        values = json.loads(note)
        key, sealed = bytes.fromhex(values["key"]), bytes.fromhex(values["sealed_key"])
        return Kept(Path(values["path"]), BackupKey(key, values["parameters"], sealed))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyStoreTamperedError("the note on the backup is damaged; restore a backup") from error
