"""The file of a backup: whatever is done to it is told precisely, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import stat
import struct
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keypost.keystore import (
    KeyStore,
    KeyStoreExistsError,
    KeyStoreFormatError,
    Passphrase,
    WrongPassphraseError,
    create_store,
    open_store,
    schema,
    store,
)
from keypost.keystore.backup_file import CHUNK, MAGIC, OVERHEAD, BackupKey, read_header
from keypost.keystore.backups import restore_backup, write_backup
from keypost.keystore.copies import COPY_NAME, FILE_NAME, RESTORING_NAME
from keypost.keystore.errors import (
    BackupDamagedError,
    BackupError,
    BackupExistsError,
    BackupFormatError,
    BackupUnavailableError,
    KeyStoreUnavailableError,
    NotABackupError,
)
from keypost.protocol.encoding import sha256
from support.key_store import BUNDLE, CHEAP, MESSAGE, NOW, REALM, UNLOCK

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = Passphrase("of the backup", CHEAP)
ELSEWHERE = Passphrase("of the new machine", CHEAP)


def fill(key_store: KeyStore, *, size: int = 0) -> None:
    key_store.key_pairs.add_pending(b"\xaa" * 32, 2, b"a private key", b"a request")
    key_store.inbox.add(MESSAGE)
    key_store.profile.set_note("large", os.urandom(size))


def make(folder: Path, *, size: int = 0, key: BackupKey | None = None, name: str = "a.backup", **options: Any) -> Path:
    """Make a profile and a backup of it; return the backup."""
    with closing(create_store(folder / "profile", UNLOCK, realm=REALM, bundle=BUNDLE)) as made:
        fill(made, size=size)
        back_up(made, folder / name, key or BackupKey.new(PASSPHRASE), **options)
    return folder / name


def back_up(key_store: KeyStore, target: Path, key: BackupKey, **options: Any) -> None:
    with closing(key_store.snapshot()) as snapshot:
        write_backup(snapshot, target, key, NOW, **options)


def restore(backup: Path, folder: Path, passphrase: Passphrase = PASSPHRASE, **options: Any) -> None:
    defaults: dict[str, Any] = {"unlock": ELSEWHERE, "prepare": lambda _store: None}
    restore_backup(backup, folder, passphrase=passphrase, **{**defaults, **options})


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return make(tmp_path)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A backup of three parts."""
    return make(tmp_path, size=2 * CHUNK)


def test_all_that_the_store_holds_is_restored_and_unlocked_anew(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "new")
    with closing(open_store(tmp_path / "new", ELSEWHERE)) as restored:
        pending = restored.key_pairs.pending()
        assert pending is not None
        assert pending.private_key_der == b"a private key"
        row = restored.inbox.next_unhandled()
        assert row is not None
        assert row.content == MESSAGE.content
    with pytest.raises(WrongPassphraseError):
        open_store(tmp_path / "new", UNLOCK)
    open_store(tmp_path / "profile", UNLOCK).close()
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE_NAME]


@pytest.mark.skipif(os.name != "posix", reason="other systems protect the folder of the user")
def test_backup_and_restored_store_are_readable_by_their_owner_alone(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "new")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_nothing_but_the_backup_is_left_beside_it(backup: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["profile", FILE_NAME, backup.name])


def refused(backup: Path, content: bytes, passphrase: Passphrase = PASSPHRASE) -> Exception:
    """Return why a backup with this content is refused; nothing may be left behind."""
    changed, new = backup.with_name("changed"), backup.with_name("new")
    changed.write_bytes(content)
    with pytest.raises((BackupError, WrongPassphraseError)) as caught:
        restore(changed, new, passphrase)
    assert not new.exists()
    return caught.value


def test_a_wrong_passphrase_is_told_from_damage(backup: Path) -> None:
    error = refused(backup, backup.read_bytes(), UNLOCK)
    assert isinstance(error, WrongPassphraseError)
    assert "wrong for this backup" in str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_law_whatever_byte_is_changed_it_is_refused(backup: Path, data: st.DataObject) -> None:
    content = bytearray(backup.read_bytes())
    # Half of them in the header, which is a small part of the file.
    end = data.draw(st.sampled_from([700, len(content)]))
    content[data.draw(st.integers(0, end - 1))] ^= data.draw(st.integers(1, 255))
    error = refused(backup, bytes(content))
    assert isinstance(error, NotABackupError | BackupDamagedError | BackupFormatError)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_law_wherever_it_is_cut_it_is_told_that_it_is(backup: Path, data: st.DataObject) -> None:
    content = backup.read_bytes()
    length = data.draw(st.integers(1, len(content) - 1))
    error = refused(backup, content[:length])
    assert isinstance(error, BackupDamagedError)
    assert "ends within its header" in str(error) or "is cut" in str(error)


def test_what_is_appended_is_told(backup: Path) -> None:
    assert "3 bytes follow its end" in str(refused(backup, backup.read_bytes() + b"abc"))


def test_an_empty_file_another_file_and_a_newer_backup_are_told_apart(backup: Path) -> None:
    assert "is empty" in str(refused(backup, b""))
    for other in (b"another file", b"k", MAGIC.upper() * 10):
        error = refused(backup, other)
        if other != b"k":
            assert isinstance(error, NotABackupError)
            assert "no backup of Keypost" in str(error)
    content = bytearray(backup.read_bytes())
    content[len(MAGIC) : len(MAGIC) + 4] = struct.pack(">I", 2)
    error = refused(backup, bytes(content))
    assert isinstance(error, BackupFormatError)
    assert error.metadata["format"] == "2"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackupUnavailableError, match="cannot be read"):
        restore(tmp_path / "nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def parts(content: bytes, start: int) -> list[bytes]:
    size = CHUNK + OVERHEAD
    return [content[at : at + size] for at in range(start, len(content), size)]


def header_length(path: Path) -> int:
    with path.open("rb") as stream:
        read_header(stream)
        return stream.tell()


def test_parts_that_are_swapped_are_refused(large: Path) -> None:
    content, start = large.read_bytes(), header_length(large)
    first, second, *rest = parts(content, start)
    error = refused(large, content[:start] + b"".join([second, first, *rest]))
    assert "part 1" in str(error)


def test_a_part_of_another_backup_under_the_same_key_is_refused(tmp_path: Path) -> None:
    key = BackupKey.new(PASSPHRASE)
    one = make(tmp_path, size=2 * CHUNK, key=key)
    with closing(open_store(tmp_path / "profile", UNLOCK)) as again:
        back_up(again, tmp_path / "later", key)
    content, start = one.read_bytes(), header_length(one)
    later = parts((tmp_path / "later").read_bytes(), header_length(tmp_path / "later"))
    first, _, *rest = parts(content, start)
    assert "part 2" in str(refused(one, content[:start] + b"".join([first, later[1], *rest])))


def test_the_header_of_another_backup_is_refused(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    mixed = other.read_bytes()[: header_length(other)] + one.read_bytes()[header_length(one) :]
    assert isinstance(refused(one, mixed), BackupDamagedError)


def with_header(path: Path, **changes: object) -> bytes:
    """Return the backup with a header that somebody made anew, digest and all."""
    content, start = path.read_bytes(), header_length(path)
    front = len(MAGIC) + 8
    values = json.loads(content[front : start - 32]) | changes
    text = json.dumps(values).encode()
    head = content[: len(MAGIC) + 4] + struct.pack(">I", len(text)) + text
    return head + sha256(head) + content[start:]


@pytest.mark.parametrize(
    "changes",
    [
        {"create_time": 5},
        {"backup_id": "00" * 16},
        {"sealed_store_key": "00" * 72},
        {"parameters": "{}"},
        {"parameters": '{"salt": "00", "memory": 99999999999, "iterations": 1, "lanes": 1}'},
        {"size": -1},
        {"size": "many"},
        {"sealed_key": None},
    ],
)
def test_a_header_that_is_made_anew_is_refused(backup: Path, changes: dict[str, object]) -> None:
    assert isinstance(refused(backup, with_header(backup, **changes)), BackupDamagedError)


def test_a_sealed_key_that_is_made_anew_looks_like_a_wrong_passphrase(backup: Path) -> None:
    assert isinstance(refused(backup, with_header(backup, sealed_key="00" * 72)), WrongPassphraseError)


def test_a_header_that_is_far_too_long_is_not_read(backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[len(MAGIC) + 4 : len(MAGIC) + 8] = b"\xff" * 4
    assert isinstance(refused(backup, bytes(content)), BackupDamagedError)


def test_a_store_of_a_newer_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(store, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE later (id INTEGER)",)))
        made = make(tmp_path)
    with pytest.raises(KeyStoreFormatError):
        restore(made, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten_but_an_earlier_backup_under_the_same_key(tmp_path: Path) -> None:
    key = BackupKey.new(PASSPHRASE)
    made = make(tmp_path, key=key)
    before = made.read_bytes()
    with closing(open_store(tmp_path / "profile", UNLOCK)) as again:
        with pytest.raises(BackupExistsError):
            back_up(again, made, key)
        with pytest.raises(BackupExistsError):
            back_up(again, made, BackupKey.new(PASSPHRASE), replace=True)
        assert made.read_bytes() == before
        back_up(again, made, key, replace=True)
    assert made.read_bytes() != before
    restore(made, tmp_path / "new")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_what_came_to_that_place_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.backup"
    with pytest.raises(BackupExistsError):
        make(tmp_path, progress=lambda *_: target.write_bytes(b"of somebody else"))
    assert target.read_bytes() == b"of somebody else"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.backup"]


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def fail(_done: int, _total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(BackupUnavailableError, match="No space left"):
        make(tmp_path, progress=fail)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [FILE_NAME]


def test_restoring_overwrites_no_profile_nor_what_is_left_of_one(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyStoreExistsError):
        restore(backup, tmp_path / "profile")
    open_store(tmp_path / "profile", UNLOCK).close()
    left = tmp_path / "left"
    left.mkdir()
    (left / f"{FILE_NAME}-wal").write_bytes(b"a log that another store would take for its own")
    with pytest.raises(KeyStoreExistsError, match="what is left of one"):
        restore(backup, left)


def test_an_empty_file_at_the_place_of_the_profile_is_none(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / FILE_NAME).touch()
    restore(backup, tmp_path / "new")
    open_store(tmp_path / "new", ELSEWHERE).close()


def test_a_place_where_nothing_can_be_made_is_told(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyStoreUnavailableError):
        restore(backup, backup / "new")
    assert backup.is_file()
    assert tmp_path.is_dir()


def test_what_fails_before_the_profile_is_there_leaves_nothing(backup: Path, tmp_path: Path) -> None:
    def fail(_store: KeyStore) -> None:
        raise ValueError("not this realm")

    with pytest.raises(ValueError, match="not this realm"):
        restore(backup, tmp_path / "new", prepare=fail)
    assert not (tmp_path / "new").exists()


def test_what_a_crash_left_of_copies_goes_when_the_profile_is_opened(tmp_path: Path) -> None:
    create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE).close()
    for name in (COPY_NAME, f"{COPY_NAME}-journal", RESTORING_NAME, f"{RESTORING_NAME}-wal"):
        (tmp_path / name).write_bytes(b"keys that are destroyed since")
    open_store(tmp_path, UNLOCK).close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_restoring_that_was_cut_short_is_begun_anew(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in (RESTORING_NAME, f"{RESTORING_NAME}-wal"):
        (tmp_path / "new" / name).write_bytes(b"half of a store")
    restore(backup, tmp_path / "new")
    open_store(tmp_path / "new", ELSEWHERE).close()


def test_a_store_is_copied_between_its_transactions(tmp_path: Path) -> None:
    with closing(create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)) as made:
        with made.transaction(), pytest.raises(KeyStoreUnavailableError, match="between its transactions"):
            made.snapshot()
        made.snapshot().close()


def test_a_closed_copy_has_no_key_and_no_file(tmp_path: Path) -> None:
    with closing(create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)) as made:
        snapshot = made.snapshot()
        assert "data_key" not in repr(snapshot)
        snapshot.close()
        snapshot.close()
    assert not any(snapshot.data_key)
    assert not snapshot.path.exists()


def test_a_large_store_takes_little_memory_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with closing(create_store(tmp_path / "profile", UNLOCK, realm=REALM, bundle=BUNDLE)) as made:
        for number in range(40):
            made.profile.set_note(f"{number}", bytes(CHUNK))
        tracemalloc.start()
        try:
            back_up(made, tmp_path / "a.backup", BackupKey.new(PASSPHRASE), progress=lambda *done: told.append(done))
            restore(tmp_path / "a.backup", tmp_path / "new")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 12 * CHUNK
    assert len(told) > 40
    assert told[-1][0] == told[-1][1]
