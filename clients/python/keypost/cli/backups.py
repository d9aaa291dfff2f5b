"""The commands about backups."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.cli.errors import UsageError
from keypost.cli.passphrases import BACKUP, passphrase_for
from keypost.client import restore_profile

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.cli.output import Output
    from keypost.cli.perform import Action, Prepare
    from keypost.client import Client
    from keypost.keystore import Unlock


def backup(file: Path | None, *, keep: bool, stop: bool) -> Action:
    """Return the command that makes a backup, keeps one or stops keeping it."""

    async def action(client: Client, output: Output) -> None:
        if stop:
            await client.set_backup(None)
            output.result("backup_stopped", "No backup is rewritten any more; the file stays.")
            return
        if file is None:
            raise UsageError("a backup needs a FILE to be written to")
        make = client.set_backup if keep else client.backup
        passphrase = await asyncio.to_thread(passphrase_for, BACKUP, new=True)
        await make(file, passphrase, progress=lambda done, total: output.progress(file.name, done, total))
        output.close()
        sentence = f"{file} holds all of this profile."
        if keep:
            sentence += " It is rewritten before each renewal: leave it there."
        output.result("backed_up", sentence, path=str(file), kept=keep)

    return action


def from_backup(file: Path, bundle: Path | None) -> Prepare:
    """Return what makes the profile from a backup, before it is opened."""

    def prepare(profile: Path, unlock: Unlock, output: Output) -> None:
        passphrase = passphrase_for(BACKUP, new=False)
        restore_profile(
            file,
            profile,
            passphrase=passphrase,
            unlock=unlock,
            bundle=bundle,
            progress=lambda done, total: output.progress(file.name, done, total),
        )
        output.close()

    return prepare


def restore() -> Action:
    """Return the command that says who the restored profile is, once it has taken over."""

    async def action(client: Client, output: Output) -> None:
        # Opening the profile has renewed its key. If that failed, or the backup was stale, this raises and says so.
        record = await client.devices()
        address = str(client.address)
        sentence = f"You are {address}. Any other copy of this device has stopped."
        output.result("restored", sentence, address=address, revision=record.revision)

    return action
