"""From a key store to the file of a backup and back: whole or not at all, one chunk in memory at a time."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from keypost.keystore.backup_file import (
    CHUNK,
    BackupKey,
    check_length,
    new_header,
    open_chunks,
    read_header,
    seal_chunks,
    write_header,
)
from keypost.keystore.copies import FILE_NAME, RESTORING_NAME, remove, side_files
from keypost.keystore.errors import (
    BackupDamagedError,
    BackupExistsError,
    BackupUnavailableError,
    KeyStoreExistsError,
    KeyStoreUnavailableError,
    NotABackupError,
)
from keypost.keystore.private_files import new_private, sync_folder
from keypost.keystore.sealing import Sealer
from keypost.keystore.store import open_copy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keypost.keystore.copies import Snapshot
    from keypost.keystore.port import KeyStore
    from keypost.keystore.unlock import Passphrase, Unlock

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def write_backup(
    snapshot: Snapshot,
    target: Path,
    key: BackupKey,
    now: int,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> None:
    """Seal a snapshot into the file ``target``, which is there whole at once, or not at all. Blocks.

    Args:
        snapshot: The copy of a key store.
        target: The file, readable by its owner alone.
        key: What seals it.
        now: Unix milliseconds.
        replace: Replace an earlier backup under the same key. Nothing else is ever overwritten.
        progress: Called with the bytes done and the bytes in all.

    Raises:
        BackupExistsError: Something is at that place (that is no backup under this key).
        BackupUnavailableError: The file cannot be written.
    """
    check_free(target, key if replace else None)
    half_made = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with new_private(half_made) as stream:
            _seal(snapshot, stream, key, now, progress)
        _publish(half_made, target, replace=replace)
    except OSError as error:
        raise BackupUnavailableError(f"the backup cannot be written to {target}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            half_made.unlink()


def check_free(target: Path, own: BackupKey | None = None) -> None:
    """Check that nothing is at the place of a new backup, or an earlier one under the same key.

    Raises:
        BackupExistsError: Something else is.
        BackupUnavailableError: It cannot be told.
    """
    try:
        if not os.path.lexists(target) or (own is not None and _is_under(target, own)):
            return
    except OSError as error:
        raise BackupUnavailableError(f"what is at {target} cannot be read: {error.strerror}") from error
    raise BackupExistsError(f"something is at {target} already, and is not overwritten; name another place")


def _is_under(target: Path, key: BackupKey) -> bool:
    try:
        with target.open("rb") as stream:
            return read_header(stream)[0].sealed_key == key.sealed_key
    except (NotABackupError, BackupDamagedError):
        return False


def _seal(snapshot: Snapshot, stream: BinaryIO, key: BackupKey, now: int, progress: Progress | None) -> None:
    with snapshot.path.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        digest = write_header(stream, new_header(key, snapshot.data_key, size, now))
        for number, sealed in enumerate(seal_chunks(content, key.key, digest), 1):
            stream.write(sealed)
            _tell(progress, number * CHUNK, size)


def _tell(progress: Progress | None, done: int, size: int) -> None:
    if progress is not None:
        progress(min(done, size), size)


def _publish(half_made: Path, target: Path, *, replace: bool) -> None:
    if replace:
        half_made.replace(target)
    else:
        _link(half_made, target)
    sync_folder(target.parent)


def _link(half_made: Path, target: Path) -> None:
    """Give a finished file its name, unless something has it."""
    try:
        target.hardlink_to(half_made)
    except FileExistsError as error:
        raise BackupExistsError(f"something is at {target} already, and is not overwritten") from error
    except OSError:
        # Where the file system has no links, as on most sticks, the look before has to do.
        half_made.rename(target)


def restore_backup(
    backup: Path,
    folder: Path,
    *,
    passphrase: Passphrase,
    unlock: Unlock,
    prepare: Callable[[KeyStore], None],
    progress: Progress | None = None,
) -> None:
    """Make a key store in ``folder`` from a backup: it is there whole at once, or nothing is. Blocks.

    Args:
        backup: The file.
        folder: The folder of the profile; made if it is not there.
        passphrase: What opens the backup.
        unlock: What shall unlock the store from now on.
        prepare: Called with the store before it is there; what it raises leaves nothing behind.
        progress: Called with the bytes done and the bytes in all.

    Raises:
        BackupUnavailableError: The file cannot be read.
        NotABackupError: It is something else, or empty.
        BackupFormatError: A newer version made it.
        BackupDamagedError: It is cut, or something in it was changed.
        WrongPassphraseError: The passphrase is another one.
        KeyStoreExistsError: There is a profile in that folder.
        KeyStoreFormatError: The store in it is of a newer version.
        KeyStoreUnavailableError: Nothing can be written there.
    """
    _check_no_profile(folder)
    half_made, is_new = folder / RESTORING_NAME, not folder.exists()
    try:
        sealer = _unseal(backup, half_made, passphrase, progress)
        with open_copy(half_made, sealer) as store:
            prepare(store)
            store.change_unlock(unlock)
        _publish_store(half_made, folder / FILE_NAME)
    except BaseException:
        _clear(half_made, folder if is_new else None)
        raise
    _clear(half_made, None)


def undo_restore(folder: Path, *, with_folder: bool) -> None:
    """Remove a profile that was just made from a backup, and has done nothing yet. Blocks.

    Args:
        folder: The folder of the profile; nothing has it open.
        with_folder: Remove the folder too, if nothing else is in it.
    """
    _clear(folder / FILE_NAME, folder if with_folder else None)


def _check_no_profile(folder: Path) -> None:
    path = folder / FILE_NAME
    try:
        found = [one for one in (path, *side_files(path)) if one.exists() and one.stat().st_size]
    except OSError as error:
        raise KeyStoreUnavailableError(f"{folder} cannot be read: {error.strerror}") from error
    if found:
        # The log of another store beside a restored one would be taken for its own.
        raise KeyStoreExistsError(f"there is a profile at {folder} already, or what is left of one; name another place")


def _unseal(backup: Path, copy: Path, passphrase: Passphrase, progress: Progress | None) -> Sealer:
    """Write the store of a backup, verified, into ``copy``; return the sealer of its values."""
    with _opened(backup) as stream:
        header, digest = read_header(stream)
        check_length(header, os.fstat(stream.fileno()).st_size - stream.tell())
        key = BackupKey.opened(header, passphrase)
        sealer = Sealer(key.open_store_key(header))
        _write_copy(copy, open_chunks(stream, key.key, digest), header.size, progress)
        return sealer


@contextmanager
def _opened(backup: Path) -> Iterator[BinaryIO]:
    try:
        stream = backup.open("rb")
    except OSError as error:
        raise BackupUnavailableError(f"the backup {backup} cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def _write_copy(copy: Path, chunks: Iterator[bytes], size: int, progress: Progress | None) -> None:
    try:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(copy, None)
        with new_private(copy) as stream:
            for number, chunk in enumerate(chunks, 1):
                stream.write(chunk)
                _tell(progress, number * CHUNK, size)
    except OSError as error:
        raise KeyStoreUnavailableError(f"no profile can be made at {copy.parent}: {error.strerror}") from error


def _publish_store(half_made: Path, path: Path) -> None:
    try:
        with half_made.open("rb") as stream:
            os.fsync(stream.fileno())
        if path.exists() and not path.stat().st_size:
            path.unlink()  # the making of a profile was cut short there: nobody is in it
        _link(half_made, path)
        sync_folder(path.parent)
    except BackupExistsError as error:
        raise KeyStoreExistsError(f"another process has made a profile at {path.parent}") from error
    except OSError as error:
        raise KeyStoreUnavailableError(f"no profile can be made at {path.parent}: {error.strerror}") from error


def _clear(half_made: Path, folder: Path | None) -> None:
    """Remove what a restoring that fails has written, and the folder if it was made for it."""
    remove(half_made)
    if folder is not None:
        with suppress(OSError):
            folder.rmdir()
