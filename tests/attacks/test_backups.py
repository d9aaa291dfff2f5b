"""What is done to the file of a backup, and with a stolen one: to the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from keypost import InvalidArgumentError, Passphrase, restore_profile
from keypost.keystore.backup_file import CHUNK, OVERHEAD, read_header
from keypost.keystore.errors import BackupDamagedError
from keypost.protocol.errors import DeviceKeyStolenError
from support.attacks import stopped_by
from support.chains import Chain
from support.lies import STRANGER
from support.people import CHEAP

if TYPE_CHECKING:
    from pathlib import Path

    from support.simulation import Services

BACKUP = Passphrase("of the backup", CHEAP.cost)


async def restore(file: Path, profile: Path, **options: Any) -> None:
    await asyncio.to_thread(restore_profile, file, profile, passphrase=BACKUP, unlock=CHEAP, **options)


def split(file: Path) -> tuple[bytes, bytes]:
    """Return the header of a backup and its parts."""
    content = file.read_bytes()
    with file.open("rb") as stream:
        read_header(stream)
        return content[: stream.tell()], content[stream.tell() :]


async def test_an_older_content_under_a_newer_header(bob: Any, tmp_path: Path) -> None:
    file = tmp_path / "bob.backup"
    await bob.client.set_backup(file, BACKUP)
    _, older = split(file)
    await bob.client._parts.backing_up.before_renewal()
    header, _ = split(file)
    file.write_bytes(header + older)
    with stopped_by(BackupDamagedError, "part 1"):
        await restore(file, tmp_path / "new")


async def test_a_backup_that_is_cut(bob: Any, tmp_path: Path) -> None:
    file = tmp_path / "bob.backup"
    await bob.client._parts.context.store.run(lambda store: store.profile.set_note("large", bytes(2 * CHUNK)))
    await bob.client.backup(file, BACKUP)
    header, parts = split(file)
    file.write_bytes(header + parts[: -(len(parts) % (CHUNK + OVERHEAD))])
    with stopped_by(BackupDamagedError, "it is cut"):
        await restore(file, tmp_path / "new")


async def test_a_backup_of_another_realm(bob: Any, services: Services, tls: Any, tmp_path: Path) -> None:
    file, mine = tmp_path / "bob.backup", services.bundle(tls)
    await bob.client.backup(file, BACKUP)
    mine.realm = "victim.example"
    with stopped_by(InvalidArgumentError, "belongs to"):
        await restore(file, tmp_path / "new", bundle=mine)


async def test_a_backup_of_a_realm_that_only_calls_itself_the_same(
    bob: Any, services: Services, tls: Any, open_client: Any, tmp_path: Path
) -> None:
    file, mine = tmp_path / "bob.backup", services.bundle(tls)
    await bob.client.backup(file, BACKUP)
    mine.root_keys[0].public_key_der = STRANGER.public_key_der
    # Its trust lists the root key that the victim means beside its own.
    chain = Chain(services.realm, [services.realm.signed_trust()])
    services.trust = chain.add(services.realm.root, services.realm.root, STRANGER)
    await restore(file, tmp_path / "new", bundle=mine)
    with stopped_by(InvalidArgumentError, "has other root keys"):
        await open_client("new", bundle=None)


async def test_a_stolen_backup_is_restored(alice: Any, bob: Any, open_client: Any, tmp_path: Path) -> None:
    await bob.client.backup(tmp_path / "bob.backup", BACKUP)
    await alice.client.send("bob", "for Bob alone")
    await restore(tmp_path / "bob.backup", tmp_path / "thief")
    thief = await open_client("thief", bundle=None)
    await thief.inbox()
    with pytest.raises(DeviceKeyStolenError):
        await bob.client.keys("bob")
