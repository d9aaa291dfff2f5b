"""Records of users: looked up, verified, held against what was known, kept (steps 2 and 8)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import DecodeError

from keypost.client.locks import Locks
from keypost.client.own_watch import OwnWatch
from keypost.client.stopping import Stopping
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keystore.values import Evidence, StoredRecord
from keypost.protocol.continuity import Pins, check_pins, pin
from keypost.protocol.encoding import parse
from keypost.protocol.errors import (
    EndorsementError,
    EquivocationError,
    ForkDetectedError,
    GhostDeviceError,
    IdentityChangedError,
    NotYetError,
    PossessionError,
    ProtocolError,
    RecordRegressedError,
    TreeBrokenError,
    UnknownRecordKeyError,
)
from keypost.protocol.history import newest
from keypost.protocol.identifiers import check_username
from keypost.protocol.key_info import KeyRecord, restore_key_info
from keypost.protocol.negotiation import step_2_obtain_recipient_key_info
from keypost.transport.remote_service import TOKEN_REFUSED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.trusting import Trust
    from keypost.keystore.port import KeyStore
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.transport.directory_client import DirectoryClient

USER_NOT_FOUND = "USER_NOT_FOUND"
MOST_IN_MEMORY = 1_000
MOMENT = 1.5
"""Seconds: longer than a directory goes without asking the CA again for a revision that it did not have."""
EVIDENCE = (
    EquivocationError,
    GhostDeviceError,
    RecordRegressedError,
    IdentityChangedError,
    ForkDetectedError,
    TreeBrokenError,
    EndorsementError,
    PossessionError,
)
"""What shows that somebody lied: the CA, whose signature a record has, or who serves its history."""


class RecordBehindError(NotYetError):
    """The directory does not know a revision yet that a message relies upon."""

    reason = "RECORD_BEHIND"


class RecordUnusableError(NotYetError):
    """The directory's answer breaks a rule; a later one may be right."""

    reason = "RECORD_UNUSABLE"


@dataclass(frozen=True)
class Shown:
    """What the directory shows of a user, verified, beside what is remembered.

    Attributes:
        record: The user's record.
        pins: What would be remembered, if its identity were accepted.
        previous: What is remembered; nothing before the first contact.
    """

    record: KeyRecord
    pins: Pins
    previous: Pins | None

    @property
    def is_changed(self) -> bool:
        """Whether the identity is another than the accepted one."""
        return self.previous is not None and not self.previous.is_of_same_identity(self.pins)


class KeyInfoStep(Protocol):
    """The step that verifies key info: step 2 for a recipient, step 8 for a sender."""

    def __call__(
        self, key_info: pb.KeyInfo, *, trust: RealmTrust, username: str, now: int, previous: KeyRecord | None
    ) -> KeyRecord:
        """Return the verified record; raises as the step."""
        ...


class Records:
    """Knows the users' records.

    Args:
        context: What all parts share.
        identity: The own device, whose user is watched the same way.
        trust: The realm's trust.
        directory: Where to ask.
        pending_directory: Where to ask with the pending key.
        on_newer: Called when a newer record was kept.
        settle: Finds out whether the pending key is the current one by now, after the directory refused a token.

    Attributes:
        watch: Watches the records of the own user.
        stopping: Stops this device once its key is somebody else's.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        trust: Trust,
        directory: DirectoryClient,
        pending_directory: DirectoryClient,
        on_newer: Callable[[], None],
        *,
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._context = context
        self._identity = identity
        self._trust = trust
        self._directory = directory
        self._pending_directory = pending_directory
        self._on_newer = on_newer
        self.watch = OwnWatch(context, identity)
        self.stopping = Stopping(context, identity)
        self._settle = settle
        self._records: OrderedDict[str, KeyRecord] = OrderedDict()
        self._locks = Locks()

    async def get(
        self,
        username: str,
        *,
        min_revision: int = 0,
        refresh: bool = False,
        step: KeyInfoStep = step_2_obtain_recipient_key_info,
    ) -> KeyRecord:
        """Return the record of a user, from memory while it is fresh.

        Args:
            username: The user.
            min_revision: A revision that is believed to exist, besides the one held; the answer may still be lower.
            refresh: Ask the directory whatever is held.
            step: The step that verifies its answer.

        Raises:
            ProtocolError: the answer breaks a rule; sending to the user is blocked.
            RefusedError: USER_NOT_FOUND and others.
            UnreachableError: no answer.
        """
        check_username(username)
        await self.stopping.check_not_stolen()
        try:
            return await self._get(username, min_revision, step, refresh=refresh)
        except RefusedError as refused:
            if refused.reason != TOKEN_REFUSED:
                raise
            # Not while the record is held: to settle is to look the own one up.
            await self._settle()
            return await self._get(username, min_revision, step, refresh=refresh)

    async def _get(self, username: str, min_revision: int, step: KeyInfoStep, *, refresh: bool) -> KeyRecord:
        async with self._locks.of(username):
            held = await self._held(username)
            if held is not None and not refresh and held.revision >= min_revision and self._is_fresh(held):
                return held
            key_info = await self._ask(self._directory, username, held, min_revision)
            return await self._learn(username, key_info, held, step)

    async def get_confirmed(self, username: str, revision: int) -> KeyRecord:
        """Return the record of a user at a revision or later; an earlier one if the CA does not have such a revision.

        Args:
            username: The user.
            revision: A revision that is said to exist.

        Raises:
            ProtocolError, RefusedError, UnreachableError: as :meth:`get`: there is no answer to go by.
        """
        record = await self.get(username, min_revision=revision)
        if record.revision >= revision:
            return record
        # The directory may have asked just before the CA recorded it, and for a moment it does not ask again.
        await asyncio.sleep(MOMENT)
        return await self.get(username, min_revision=revision)

    async def get_as_pending(self, username: str) -> KeyRecord:
        """Return the own user's record, asked for with the pending key: if it may ask, it is recorded."""
        async with self._locks.of(username):
            held = await self._held(username)
            key_info = await self._ask(self._pending_directory, username, held)
            return await self._learn(username, key_info, held)

    async def held(self, username: str) -> KeyRecord | None:
        """Return the newest record that is held, fresh or not."""
        async with self._locks.of(username):
            return await self._held(username)

    async def held_fresh(self, username: str) -> KeyRecord | None:
        """Return the record that is held if it may be relied upon without asking."""
        if self.stopping.has_stopped:
            return None
        held = await self.held(username)
        return held if held is not None and self._is_fresh(held) else None

    async def learn(self, username: str, key_info: pb.KeyInfo) -> KeyRecord:
        """Verify key info that came with another answer, and return the record to rely upon.

        One that is older than what is held was overtaken on its way by a later one: nobody was asked for the newest, so
        it is no step back, and of no use.
        """
        async with self._locks.of(username):
            held = await self._held(username)
            if held is not None and _claims_less(key_info, held):
                return held
            return await self._learn(username, key_info, held)

    async def shown(self, username: str) -> Shown:
        """Return what the directory shows of a user now; another identity than the accepted one is not kept."""
        async with self._locks.of(username):
            shown = await self._shown(username)
            if not shown.is_changed:
                await self._keep(shown.record, shown.pins)
            return shown

    async def accept(self, username: str, check: Callable[[Pins], None], *, verified: bool = False) -> Shown:
        """Accept the identity that the directory shows of a user, whichever was known before.

        Args:
            username: The user.
            check: Raises unless this identity is the one that people compared; called in a thread.
            verified: They compared all of it, so that it is verified from now on.
        """
        async with self._locks.of(username):
            shown = await self._shown(username)
            await asyncio.to_thread(check, shown.pins)
            await self._keep(shown.record, replace(shown.pins, verified=True) if verified else shown.pins)
            # What waits because of the identity opens from now on, even if the record is the one that is held.
            self._on_newer()
            return shown

    async def pins(self, username: str) -> Pins | None:
        """Return what is remembered of a user's keys."""
        stored = await self._context.store.run(lambda store: store.records.pins(username))
        return None if stored is None else Pins.from_bytes(stored)

    async def set_unverified(self, username: str) -> None:
        """Forget that a user's identity was verified."""
        async with self._locks.of(username):
            await self._context.store.transact(_set_unverified, username)

    def begin_anew(self, username: str) -> None:
        """Let go of a device that has stopped, and of its user's record in memory: the profile enrols anew."""
        self.stopping.begin_anew()
        self._records.pop(username, None)

    def known(self) -> tuple[KeyRecord, ...]:
        """Return the records in memory."""
        return tuple(self._records.values())

    async def _shown(self, username: str) -> Shown:
        await self.stopping.check_not_stolen()
        held = await self._held(username)
        key_info = await self._ask(self._directory, username, held)
        try:
            record = await self._verify(username, key_info, held, step_2_obtain_recipient_key_info)
            previous = await self.pins(username)
            pins = await asyncio.to_thread(pin, record, self._context.minimum_suite, previous)
            await self.stopping.check_own(record)
        except ProtocolError as error:
            await self._keep_evidence(username, error, held, key_info)
            raise
        return Shown(record, pins, previous)

    def _is_fresh(self, held: KeyRecord) -> bool:
        """Whether a record may be relied upon: nor is it, however young, once its record key has been retired."""
        vouched = self._trust.vouches_for(held.key_info.record.record_key_fingerprint)
        return vouched and self._context.clock() < held.next_update

    async def _held(self, username: str) -> KeyRecord | None:
        if username in self._records:
            self._records.move_to_end(username)
            return self._records[username]
        stored = await self._context.store.run(lambda store: store.records.find(username))
        if stored is None:
            return None
        record = await asyncio.to_thread(_restore, stored)
        self._remember(record)
        return record

    async def _learn(
        self,
        username: str,
        key_info: pb.KeyInfo,
        held: KeyRecord | None,
        step: KeyInfoStep = step_2_obtain_recipient_key_info,
    ) -> KeyRecord:
        # ``held`` comes from the caller: meanwhile other look-ups may have pushed it out of memory.
        try:
            record = await self._verify(username, key_info, held, step)
            pins = await self._check_pins(record, held)
            await self.stopping.check_own(record)
        except ProtocolError as error:
            await self._keep_evidence(username, error, held, key_info)
            raise
        await self._keep(record, pins)
        await self.watch.look(record)
        if held is None or record is not held:
            self._on_newer()
        return record

    async def _verify(
        self, username: str, key_info: pb.KeyInfo, held: KeyRecord | None, step: KeyInfoStep
    ) -> KeyRecord:
        for last in (False, True):
            trust, now = await self._trust.current(), self._context.clock()
            try:
                return await asyncio.to_thread(step, key_info, trust=trust, username=username, now=now, previous=held)
            except UnknownRecordKeyError:
                if last:
                    raise
                await self._trust.refresh()
        raise AssertionError

    async def _check_pins(self, record: KeyRecord, held: KeyRecord | None) -> Pins:
        pins, minimum = await self.pins(record.username), self._context.minimum_suite
        try:
            return await asyncio.to_thread(check_pins, pins, record, minimum)
        except IdentityChangedError as error:
            if not self._takes_over(pins, record.username):
                raise
            taken = await asyncio.to_thread(pin, record, minimum, pins)
            await self._add_evidence(record.username, error, held, record.key_info)
        sentence = (
            f"the identity of {record.username} changed to {taken.root.hex()[:8]}, and this client is told to go on: "
            "compare safety numbers, it may be an attack"
        )
        self._context.tell(
            "error", IdentityChangedError.reason, sentence, username=record.username, root=taken.root.hex()
        )
        return taken

    def _takes_over(self, pins: Pins | None, username: str) -> bool:
        """Return whether a changed identity is relied upon before anybody has compared it."""
        is_own = username in self._identity.ring.usernames
        is_verified = pins is not None and pins.verified
        return self._context.on_identity_change == "warn" and not is_own and not is_verified

    async def _keep(self, record: KeyRecord, pins: Pins) -> None:
        stored = StoredRecord(
            username=record.username,
            epoch=record.epoch,
            revision=record.revision,
            this_update=record.this_update,
            key_info=record.key_info.SerializeToString(),
        )

        def keep(store: KeyStore) -> None:
            store.records.put(stored)
            store.records.set_pins(record.username, pins.to_bytes())

        await self._context.store.transact(keep)
        self._remember(record)

    def _remember(self, record: KeyRecord) -> None:
        self._records[record.username] = record
        self._records.move_to_end(record.username)
        while len(self._records) > MOST_IN_MEMORY:
            self._records.popitem(last=False)

    async def _ask(
        self, directory: DirectoryClient, username: str, held: KeyRecord | None, min_revision: int = 0
    ) -> pb.KeyInfo:
        # A copy of the directory may be a little behind what is held: this has it ask the CA before it answers, so that
        # only an answer in spite of that counts as a step back.
        known = max(min_revision, _revision(held))
        ask = partial(directory.get_key_info, username, min_revision=known, history_from=_newest_key(held))
        try:
            if not _claims_less(key_info := await ask(), held):
                return key_info
            # It may have asked just before the CA recorded what is held, and for a moment it does not ask again.
            await asyncio.sleep(MOMENT)
            return await ask()
        except RefusedError as refused:
            if refused.reason == USER_NOT_FOUND:
                try:
                    _check_never_seen(username, held)
                except RecordRegressedError as denied:
                    await self._keep_evidence(username, denied, held)
                    raise
            raise

    async def _keep_evidence(
        self, username: str, error: ProtocolError, held: KeyRecord | None, key_info: pb.KeyInfo | None = None
    ) -> None:
        if isinstance(error, EVIDENCE):
            await self._add_evidence(username, error, held, key_info)
            self._context.tell("error", error.reason, str(error), username=username)

    async def _add_evidence(
        self, username: str, error: ProtocolError, held: KeyRecord | None, key_info: pb.KeyInfo | None
    ) -> None:
        previous = b"" if held is None else held.key_info.SerializeToString()
        current = b"" if key_info is None else key_info.SerializeToString()
        evidence = Evidence(username, error.reason, previous, current, self._context.clock())
        await self._context.store.run(lambda store: store.records.add_evidence(evidence))


def _check_never_seen(username: str, held: KeyRecord | None) -> None:
    if held is not None:
        raise RecordRegressedError(
            f"the directory says that there is no {username}, whose record is held here: users are never removed",
            username=username,
        )


def _revision(held: KeyRecord | None) -> int:
    return 0 if held is None else held.revision


def _claims_less(key_info: pb.KeyInfo, held: KeyRecord | None) -> bool:
    """Return whether an answer, unverified, says that it is older than what is held."""
    try:
        return pb.UserKeys.FromString(key_info.record.user_keys).revision < _revision(held)
    except DecodeError:
        return False


def _newest_key(held: KeyRecord | None) -> bytes:
    """Return the key whose history, and what came before it, need not be shown: it is held."""
    known = None if held is None else newest(held.requests, held.epoch)
    return b"" if known is None else known.fingerprint


def _restore(stored: StoredRecord) -> KeyRecord:
    """Return a record from the store: it was verified when it came in, and the store is sealed."""
    return restore_key_info(parse(pb.KeyInfo, stored.key_info, "KeyInfo"))


def _set_unverified(store: KeyStore, username: str) -> None:
    stored = store.records.pins(username)
    if stored is not None:
        store.records.set_pins(username, replace(Pins.from_bytes(stored), verified=False).to_bytes())
