"""Restoring: a backup becomes a profile, and the profile takes over from every other copy (docs/spec.md, "Backups")."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.client import backing_up, restored
from keypost.client.arguments import check_passphrase, check_unlock, read_path
from keypost.client.key_requests import INVITATION
from keypost.client.profiles import expect_bundle, read_bundle
from keypost.client.restored import Restored, RestoredState
from keypost.client.stopping import STOLEN
from keypost.errors import KeypostError, RefusedError
from keypost.keystore.backups import restore_backup
from keypost.protocol.errors import DeviceKeyStolenError, KeyRevokedError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.client.renewing import Renewing
    from keypost.client.results import Progress
    from keypost.keys.v1 import realm_trust_pb2 as pb
    from keypost.keystore.port import KeyStore
    from keypost.keystore.unlock import Passphrase, Unlock
    from keypost.keystore.values import OutgoingMessage
    from keypost.protocol.key_info import Key

RESTORED = "RESTORED"
TOO_LATE = frozenset({"RENEWAL_WINDOW_OVER"})
"""Refusals of a renewal, besides that the key was replaced, by which the key in a backup is of no use any more."""


class BackupStaleError(KeypostError):
    """The key in the backup was replaced since: the profile holds history, and enrols anew to send and receive."""

    reason = "BACKUP_STALE"


def restore_profile(
    backup: Path,
    profile: Path,
    *,
    passphrase: Passphrase,
    unlock: Unlock,
    bundle: Path | pb.Bundle | None = None,
    progress: Progress | None = None,
) -> None:
    """Make a profile from a backup. Blocks, and asks nobody; open it then as any other.

    Restoring is a move: once the profile is opened it renews its key before it does anything else, and any other copy
    of the device stops.

    Args:
        backup: The file of the backup.
        profile: The folder of the new profile.
        passphrase: What opens the backup.
        unlock: What is to unlock the profile from now on.
        bundle: If given, the backup must be of its realm. If its root keys are others than the backup knows, the
            profile opens once the realm's trust has shown that those handed over to these, and not before.
        progress: Called with the bytes done and the bytes in all.

    Raises:
        InvalidArgumentError: an argument cannot be right, or the backup is of another realm.
        WrongPassphraseError: the passphrase is not the backup's.
        KeyStoreError: the backup is none, damaged or of a newer version, or the profile cannot be made; nothing of it
            is left behind.
    """
    check_passphrase(passphrase)
    check_unlock(unlock)
    given = None if bundle is None else read_bundle(bundle)

    def prepare(store: KeyStore) -> None:
        if given is not None:
            expect_bundle(store, given)
        _become_copy(store)

    restore_backup(
        read_path(backup, "backup"),
        read_path(profile, "profile"),
        passphrase=passphrase,
        unlock=unlock,
        prepare=prepare,
        progress=progress,
    )


def _become_copy(store: KeyStore) -> None:
    with store.transaction():
        restored.write(store, Restored(RestoredState.COPY))
        # The other copy may have sent since: none of its counters may come again.
        store.counters.begin_count()
        # Its place was on the other machine.
        store.profile.set_note(backing_up.NOTE, None)


class Restoring:
    """Has a restored profile take over from every other copy.

    Args:
        context: What all parts share.
        identity: The own device.
        records: The users' records.
        renewing: Replaces the key.
    """

    def __init__(self, context: Context, identity: Identity, records: Records, renewing: Renewing) -> None:
        self._context = context
        self._identity = identity
        self._records = records
        self._renewing = renewing
        self._lock = asyncio.Lock()
        self._restored: Restored | None = None

    async def start(self) -> None:
        """Read how far the profile has come, and take over if it can be done now; else the next call tries again."""
        self._restored = await self._context.store.run(restored.read)
        try:
            await self.take_over()
        except KeypostError as error:
            self._context.tell("warning", error.reason, f"this restored profile cannot renew its key yet: {error}")

    @property
    def holds_history_alone(self) -> bool:
        """Whether the backup was stale, and the profile has not enrolled anew."""
        state = None if self._restored is None else self._restored.state
        return state is RestoredState.STALE and self._identity.ring.current is None

    @property
    def is_ready(self) -> bool:
        """Whether this device may act: it need not take over first, or enrol anew."""
        return not self._is_copy() and not self.holds_history_alone

    async def check_ready(self) -> None:
        """Take over if that is still to be done, and raise unless this device may act.

        Raises:
            BackupStaleError: the profile has to enrol anew.
            KeypostError: the renewal failed; nothing else is done before it.
        """
        await self.take_over()
        if self.holds_history_alone:
            raise stale()

    async def take_over(self) -> Key | None:
        """Renew the key of a copy to one that no other copy has; return it, or None if there was nothing to do.

        Raises:
            KeypostError: the renewal failed, to be tried again.
        """
        if not self._is_copy():
            return None
        async with self._lock:
            if not self._is_copy() or self._identity.ring.current is None:
                return None
            try:
                key = await self._renewing.take_over()
            except (DeviceKeyStolenError, KeyRevokedError):
                await self._become_stale()
                return None
            except RefusedError as refused:
                if refused.reason not in TOO_LATE:
                    raise
                await self._become_stale()
                return None
            await self._note(RestoredState.MOVED)
            sentence = "this device was restored and has renewed its key: any other copy of it has stopped"
            self._context.tell("info", RESTORED, sentence)
            return key

    def _is_copy(self) -> bool:
        return self._restored is not None and self._restored.state is RestoredState.COPY

    async def _note(self, state: RestoredState) -> None:
        self._restored = Restored(state, self._context.clock())
        await self._context.store.run(restored.write, self._restored)

    async def _become_stale(self) -> None:
        """Keep what the backup holds, and let go of the device that it was."""
        me, stale_now = self._identity.address, Restored(RestoredState.STALE, self._context.clock())
        while left := await self._context.store.run(lambda store: store.outbox.page()):
            await self._give_up(left)

        def let_go(store: KeyStore) -> None:
            store.key_pairs.retire(stale_now.time)
            store.records.forget(me.username)
            # What it once joined by says nothing of the device that it is to become.
            for note in (STOLEN, INVITATION):
                store.profile.set_note(note, None)
            restored.write(store, stale_now)

        await self._context.store.transact(let_go)
        self._restored = stale_now
        self._records.begin_anew(me.username)
        await self._identity.reload()
        self._context.tell("error", BackupStaleError.reason, str(stale()))

    async def _give_up(self, left: tuple[OutgoingMessage, ...]) -> None:
        # From another device they would be other messages: whoever has them from the other copy would have them twice.
        for message in left:
            sentence = f"a message to {message.recipient} in the backup is not sent: the other copy may have sent it"
            self._context.tell("error", BackupStaleError.reason, sentence, recipient=message.recipient)
            await self._context.store.run(lambda store, name: store.outbox.remove(name), message.message_id)


def stale() -> BackupStaleError:
    """Return the error that says what a stale backup is good for."""
    return BackupStaleError(
        "the key in this backup was replaced since it was made: the messages in it can be read, and nothing is sent or "
        "received before this profile is enrolled anew"
    )
