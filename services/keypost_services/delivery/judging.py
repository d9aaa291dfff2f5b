"""What delivery checks before an envelope may wait, in the order of docs/spec.md, "Delivery": but for idempotence.

The caller is the sender; the revisions; under which session, and to whom it is sealed. All of this follows from the key
extension, the two users' records, the caller and the time, so it is asked once for all envelopes of a batch that share
an extension, and never remembered beyond the batch: the next one meets the records of then.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.errors import ProtocolError
from keypost.protocol.extension import DeviceKey
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost.protocol.sessions import is_creator_good, is_within_rotation
from keypost.protocol.validity import check_can_act
from keypost_services.delivery.convert import EXTENSION, HEADER
from keypost_services.delivery.errors import (
    directory_unavailable,
    revision_unknown,
    sealed_keys_mismatch,
    sender_is_not_caller,
    session_stale,
)
from keypost_services.delivery.trust import realm_constants
from keypost_services.runtime.errors import ServiceError, invalid_field, token_refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from keypost.protocol.extension import Extension
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.realm_trust import Constants
    from keypost_services.delivery.envelopes import Incoming, KnownExtension
    from keypost_services.delivery.records import Records
    from keypost_services.runtime.realm_trust import TrustKeeper

MOST_AT_ONCE = 64
"""Extensions of one batch that are judged at the same time."""


@dataclass(frozen=True)
class Stale:
    """The envelope was sealed for revisions that are no longer current; these are."""

    sender: KeyRecord | None
    recipient: KeyRecord | None

    @property
    def size(self) -> int:
        """How many bytes the records are."""
        return sum(record.key_info.ByteSize() for record in (self.sender, self.recipient) if record is not None)


@dataclass(frozen=True)
class _Parties:
    """The current records of the two users."""

    sender: KeyRecord
    recipient: KeyRecord


Verdict = Stale | ServiceError | None
"""Why envelopes may not wait; None: they may, for the devices that their extension names."""


class Judging:
    """Judges the envelopes of one batch.

    Args:
        caller: The key by which the calling device showed itself.
        records: The users' records.
        trust: The realm's constants.
        now: The time at which all are judged.
    """

    def __init__(self, caller: Key, records: Records, trust: TrustKeeper, now: int) -> None:
        self._caller = caller
        self._records = records
        self._trust = trust
        self._now = now
        self._latest = now + CLOCK_SKEW
        self._verdicts: dict[KnownExtension, Verdict] = {}

    def check_sender(self, incoming: Incoming) -> None:
        """Refuse what the caller does not send: nothing more is said about it.

        Raises:
            ServiceError: SENDER_IS_NOT_CALLER.
        """
        _check_sender(self._caller, incoming.known.extension)

    async def prepare(self, envelopes: Iterable[Incoming], seconds: float) -> None:
        """Judge what the envelopes of the caller are sent by, many at once: records that are not had hold up no others.

        What is not judged after so many seconds is refused with DIRECTORY_UNAVAILABLE. Recipients who were never seen
        here are left to ``judge``, one after the other: they may not exist, and who tries names out is to be noticed
        before the next one.
        """
        own = (one.known for one in envelopes if one.known.extension.signer.address == self._caller.address)
        unknown = [known for known in dict.fromkeys(own) if known not in self._verdicts and self._has_seen(known)]
        turns = asyncio.Semaphore(MOST_AT_ONCE)

        async def judge(known: KnownExtension) -> None:
            async with turns:
                self._verdicts[known] = await self._judge(known)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for known in unknown:
                    group.create_task(judge(known))
        for known in unknown:
            self._verdicts.setdefault(known, directory_unavailable())

    def _has_seen(self, known: KnownExtension) -> bool:
        return self._records.newest(known.extension.recipient_username) is not None

    async def judge(self, incoming: Incoming) -> Verdict:
        """Return why an envelope of the caller may not wait, or None."""
        known = incoming.known
        if known not in self._verdicts:
            self._verdicts[known] = await self._judge(known)
        try:
            _check_time(f"{HEADER}.send_time", incoming.send_time, self._latest)
        except ServiceError as error:
            return error
        return self._verdicts[known]

    async def _judge(self, known: KnownExtension) -> Verdict:
        try:
            return await self._stale_or_refused(known)
        except ServiceError as error:
            return error

    async def _stale_or_refused(self, known: KnownExtension) -> Stale | None:
        extension, now = known.extension, self._now
        _check_time(f"{EXTENSION}.sign_time", extension.sign_time, self._latest)
        _check_time(f"{EXTENSION}.session_create_time", extension.session_create_time, self._latest)
        parties = await self._parties(extension)
        _check_not_ahead(parties.sender, extension.sender_revision)
        _check_not_ahead(parties.recipient, extension.recipient_revision)
        if (stale := _stale(extension, parties)) is not None:
            return stale
        _check_signer(self._caller, extension)
        _check_suite(self._caller, extension)
        _check_can_act(self._caller, parties.sender, now)
        _check_rotation(extension, await realm_constants(self._trust), now)
        _check_creator(extension, parties, now)
        _check_sealed_keys(known, parties.recipient, now)
        return None

    async def _parties(self, extension: Extension) -> _Parties:
        sender, recipient = extension.signer.address.username, extension.recipient_username
        if sender == recipient:
            revision = max(extension.sender_revision, extension.recipient_revision)
            own = await self._records.at_least(sender, revision)
            return _Parties(own, own)
        held = self._records.held(sender, extension.sender_revision)
        also_held = self._records.held(recipient, extension.recipient_revision)
        if held is not None and also_held is not None:
            return _Parties(held, also_held)
        return _Parties(
            *await asyncio.gather(
                self._records.at_least(sender, extension.sender_revision),
                self._records.at_least(recipient, extension.recipient_revision),
            )
        )


def _check_sender(caller: Key, extension: Extension) -> None:
    if extension.signer.address != caller.address:
        raise sender_is_not_caller("the header names another sender than the caller")


def _check_time(field: str, time: int, latest: int) -> None:
    """Refuse what its recipients could not open yet, and would have to keep."""
    if time > latest:
        raise invalid_field(field, "is more than five minutes ahead")


def _check_not_ahead(record: KeyRecord, claimed: int) -> None:
    if claimed > record.revision:
        raise revision_unknown(record.username, claimed)


def _stale(extension: Extension, parties: _Parties) -> Stale | None:
    """Return what an envelope was not sealed for, if there is any."""
    stale = Stale(
        parties.sender if extension.sender_revision < parties.sender.revision else None,
        parties.recipient if extension.recipient_revision < parties.recipient.revision else None,
    )
    return stale if stale.sender or stale.recipient else None


def _check_signer(caller: Key, extension: Extension) -> None:
    if extension.signer.fingerprint != caller.fingerprint:
        raise sender_is_not_caller("the extension is signed by another key than the caller's")


def _check_suite(caller: Key, extension: Extension) -> None:
    if extension.suite is not caller.request.suite:
        raise invalid_field(f"{EXTENSION}.suite", "is not that of the key that signs")


def _check_can_act(caller: Key, record: KeyRecord, now: int) -> None:
    """Refuse a key that has ended since its token was verified."""
    try:
        check_can_act(record.get(caller.fingerprint), record, now)
    except ProtocolError as error:
        raise token_refused(error.reason) from error


def _check_rotation(extension: Extension, constants: Constants, now: int) -> None:
    """Refuse a session that nobody sends under any more; the sender's clock may be behind."""
    if not is_within_rotation(extension.session_create_time, constants, now - CLOCK_SKEW):
        raise session_stale("the session is older than the realm's rotation period", f"{EXTENSION}.session_create_time")


def _check_creator(extension: Extension, parties: _Parties, now: int) -> None:
    """Refuse a session of a key that is not good: who once held it must not choose what others encrypt under."""
    # It may expire between the sealing and here, and clocks differ.
    if not is_creator_good(extension.creator, (parties.sender, parties.recipient), now - CLOCK_SKEW):
        raise session_stale("the session was not created by a good key of either user", f"{EXTENSION}.creator")


def _check_sealed_keys(known: KnownExtension, recipient: KeyRecord, now: int) -> None:
    """Refuse what is not sealed to exactly the good devices of its recipient."""
    _check_sealed_to_named(known)
    _check_named_are_good(known.extension, recipient, now)
    for fingerprint, size in known.sealed_keys:
        if size != recipient.get(fingerprint).suite.sealed_key_bytes:
            raise sealed_keys_mismatch("a sealed key has not the length that its device's suite gives it")


def _check_sealed_to_named(known: KnownExtension) -> None:
    named = [device.fingerprint for device in known.extension.recipient_devices]
    if sorted(named) != sorted(fingerprint for fingerprint, _ in known.sealed_keys):
        raise sealed_keys_mismatch("the sealed keys are not those of the devices that the extension names")


def _check_named_are_good(extension: Extension, recipient: KeyRecord, now: int) -> None:
    # A key may expire between the sealing and here, and clocks differ: for so long both sets of devices are right.
    moments = (now, now - CLOCK_SKEW, now + CLOCK_SKEW)
    good = [_recipients(recipient, extension.signer.address, when) for when in moments]
    devices: Collection[DeviceKey] = sorted(extension.recipient_devices)
    if not any(devices == sorted(DeviceKey.of(key) for key in keys) for keys in good):
        raise sealed_keys_mismatch(f"the good devices of {recipient.username} are others than the extension names")


def _recipients(record: KeyRecord, sender: Address, when: int) -> Iterable[Key]:
    # In the conversation of a user with himself the sending device is no recipient.
    return (key for key in record.good_keys(when) if key.address != sender)
