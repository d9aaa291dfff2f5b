from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from keypost.keystore.backup_file import BackupKey
from keypost.keystore.backups import restore_backup, write_backup
from keypost.keystore.store import open_store
from keypost.keystore.unlock import Passphrase
from support.key_store import BOTH, CHEAP, FILE, MESSAGE, NOW, OUTGOING, SESSION, UNLOCK, WAITING, Reopening

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.keystore import KeyStore

PASSPHRASE = Passphrase("of the backup", CHEAP)


def fill(store: KeyStore) -> None:
    store.key_pairs.add_pending(b"\xaa" * 32, 2, b"a private key", b"a request")
    store.sessions.add(SESSION)
    store.counters.next_send(BOTH)
    store.counters.mark_received(MESSAGE.sender, BOTH, 3, MESSAGE.message_id, NOW)
    store.inbox.add(MESSAGE)
    store.outbox.add(OUTGOING)
    store.waiting.add(WAITING)
    store.set_aside.add(WAITING)
    store.records.set_pins("bob", b"pins")
    store.profile.set_note("verified", b"a mark")
    store.files.add_part(FILE, 0, b"part", NOW)


def contents(store: KeyStore) -> list[object]:
    """Return what every part of the store holds."""
    return [
        store.profile.read(),
        store.key_pairs.pending(),
        store.sessions.find(BOTH, SESSION.key_id),
        store.counters.is_received(MESSAGE.sender, MESSAGE.message_id),
        store.inbox.find(MESSAGE.sender, MESSAGE.message_id),
        store.outbox.page(),
        store.waiting.page(),
        store.set_aside.page(),
        store.records.pins("bob"),
        store.profile.note("verified"),
        store.files.find(FILE.sender, FILE.file_id),
        next(store.files.read(FILE.sender, FILE.file_id)),
        store.counters.next_send(BOTH),
    ]


def restored(store: KeyStore, folder: Path) -> KeyStore:
    """Return the store that a backup of this one makes."""
    with closing(store.snapshot()) as snapshot:
        write_backup(snapshot, folder / "backup", BackupKey.new(PASSPHRASE), NOW)
    restore_backup(
        folder / "backup", folder / "restored", passphrase=PASSPHRASE, unlock=UNLOCK, prepare=lambda _store: None
    )
    return open_store(folder / "restored", UNLOCK)


def test_a_backup_holds_everything(key_store: Reopening, tmp_path: Path) -> None:
    fill(key_store.store)
    with closing(restored(key_store.store, tmp_path)) as again:
        assert contents(again) == contents(key_store.store)


def test_a_snapshot_is_of_one_moment(key_store: Reopening, tmp_path: Path) -> None:
    fill(key_store.store)
    with closing(key_store.store.snapshot()) as snapshot:
        key_store.store.outbox.remove(OUTGOING.message_id)
        write_backup(snapshot, tmp_path / "backup", BackupKey.new(PASSPHRASE), NOW)
    restore_backup(
        tmp_path / "backup", tmp_path / "restored", passphrase=PASSPHRASE, unlock=UNLOCK, prepare=lambda _store: None
    )
    with closing(open_store(tmp_path / "restored", UNLOCK)) as again:
        assert again.outbox.page() == (OUTGOING,)


def test_a_snapshot_tells_how_far_it_is(key_store: Reopening) -> None:
    told: list[tuple[int, int]] = []
    fill(key_store.store)
    key_store.store.snapshot(lambda *done: told.append(done)).close()
    assert told[-1][0] == told[-1][1] > 0


def test_the_store_goes_on_while_a_snapshot_is_there(key_store: Reopening) -> None:
    with closing(key_store.store.snapshot()):
        fill(key_store.store)
    with pytest.raises(StopIteration):
        next(key_store.again().files.read(FILE.sender, b"\x09" * 16))
    assert key_store.store.outbox.page() == (OUTGOING,)
