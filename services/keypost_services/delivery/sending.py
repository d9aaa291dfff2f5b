"""Send: what delivery checks before an envelope waits, in the order of docs/spec.md, "Delivery".

The caller is the sender; then idempotence; the revisions; under which session, and to whom it is sealed.
Whatever would refuse an envelope first asks whether it is stored already: then it is answered as stored, whatever has
changed since.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.errors import ProtocolError
from keypost.protocol.extension import DeviceKey
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost.protocol.sessions import is_creator_good, is_within_rotation
from keypost.protocol.validity import check_can_act
from keypost_services.delivery.convert import EXTENSION, HEADER, digest_of, envelope_for
from keypost_services.delivery.errors import (
    mailbox_full,
    message_id_used,
    revision_unknown,
    sealed_keys_mismatch,
    sender_is_not_caller,
    sender_share_full,
    session_stale,
)
from keypost_services.delivery.mailboxes import Acceptance, Mailboxes, MessageName, Outcome, Posting
from keypost_services.delivery.trust import realm_constants
from keypost_services.runtime.errors import ServiceError, invalid_field, token_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from keypost.clock import Clock
    from keypost.protocol.envelope import Header, SealedEnvelope
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.realm_trust import Constants
    from keypost_services.delivery.records import Records
    from keypost_services.runtime.realm_trust import TrustKeeper


@dataclass(frozen=True)
class Stored:
    """The envelope waits in every mailbox of its recipient.

    Attributes:
        accept_time: When the service accepted it first, Unix milliseconds.
        duplicate: It had been stored before.
        appends: Into how many mailboxes it was put now.
    """

    accept_time: int
    duplicate: bool
    appends: int


@dataclass(frozen=True)
class Stale:
    """The envelope was sealed for revisions that are no longer current; these are."""

    sender: KeyRecord | None
    recipient: KeyRecord | None


@dataclass(frozen=True)
class _Parties:
    """The current records of the two users."""

    sender: KeyRecord
    recipient: KeyRecord


class Sending:
    """Takes envelopes in.

    Args:
        mailboxes: Where they go.
        records: The users' records.
        trust: The realm's constants.
        clock: The time; accept_time comes from it.
        on_unheard: Told for which devices something was stored that nobody was woken by: they are not connected.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        records: Records,
        trust: TrustKeeper,
        clock: Clock,
        *,
        on_unheard: Callable[[Collection[Address]], None],
    ) -> None:
        self._mailboxes = mailboxes
        self._records = records
        self._trust = trust
        self._clock = clock
        self._on_unheard = on_unheard

    async def send(self, caller: Key, sealed: SealedEnvelope) -> Stored | Stale:
        """Store an envelope for every device of its recipient.

        Args:
            caller: The key by which the calling device showed itself.
            sealed: The envelope, well-formed.

        Raises:
            ServiceError: as ``Send`` in the protos.
            MailboxesUnavailableError: the mailboxes cannot be reached.
        """
        _check_sender(caller, sealed)
        verdict = await self._judge_or_remember(caller, sealed)
        if isinstance(verdict, Stale):
            return verdict
        return await self._append(sealed, verdict)

    async def _judge_or_remember(self, caller: Key, sealed: SealedEnvelope) -> Stale | Collection[DeviceKey]:
        """Return the keys of the devices whose mailboxes the envelope belongs into, or what is stale."""
        try:
            verdict = await self._judge(caller, sealed)
        except ServiceError:
            if (known := await self._accepted_before(sealed)) is not None:
                return known
            raise
        if isinstance(verdict, Stale) and (known := await self._accepted_before(sealed)) is not None:
            return known
        return verdict

    async def _judge(self, caller: Key, sealed: SealedEnvelope) -> Stale | Collection[DeviceKey]:
        header = sealed.header
        _check_times(sealed, self._clock() + CLOCK_SKEW)
        parties = await self._parties(sealed)
        _check_not_ahead(parties.sender, header.sender_revision)
        _check_not_ahead(parties.recipient, header.recipient_revision)
        if (stale := _stale(header, parties)) is not None:
            return stale
        _check_signer(caller, sealed)
        _check_suite(caller, sealed)
        _check_can_act(caller, parties.sender, self._clock())
        _check_rotation(sealed, await realm_constants(self._trust), self._clock())
        _check_creator(sealed, parties, self._clock())
        _check_sealed_keys(sealed, parties.recipient, self._clock())
        return sealed.signed_extension.extension.recipient_devices

    async def _parties(self, sealed: SealedEnvelope) -> _Parties:
        header = sealed.header
        sender, recipient = header.sender.username, header.recipient_username
        if sender == recipient:
            revision = max(header.sender_revision, header.recipient_revision)
            own = await self._records.at_least(sender, revision)
            return _Parties(own, own)
        return _Parties(
            *await asyncio.gather(
                self._records.at_least(sender, header.sender_revision),
                self._records.at_least(recipient, header.recipient_revision),
            )
        )

    async def _accepted_before(self, sealed: SealedEnvelope) -> Collection[DeviceKey] | None:
        """Return the devices that an envelope belongs to which is stored already, in some mailbox at least; else None.

        A Send that broke off between two mailboxes was accepted all the same, and is completed; yet a device that has
        been withdrawn since gets nothing more.
        """
        devices = sealed.signed_extension.extension.recipient_devices
        known = await self._mailboxes.find(_name(sealed), [device.address for device in devices])
        accepted, complete = digest_of(sealed) in known.values(), len(known) == len(devices)
        if complete and not accepted:
            raise message_id_used()
        if complete or not accepted:
            return devices if accepted else None
        recipient = await self._records.current(sealed.header.recipient_username)
        good = {key.address for key in recipient.good_keys(self._clock())}
        return [device for device in devices if device.address in known or device.address in good]

    async def _append(self, sealed: SealedEnvelope, devices: Collection[DeviceKey]) -> Stored:
        constants = await realm_constants(self._trust)
        posting = Posting(
            name=_name(sealed),
            digest=digest_of(sealed),
            accept_time=self._clock(),
            mailbox_age=constants.mailbox_age,
            envelopes={device.address: envelope_for(sealed, device.fingerprint) for device in devices},
        )
        if len(posting.envelopes) > 1:
            # Each mailbox decides for itself: let none have what another one is known to refuse.
            _stored(await self._mailboxes.foresee(posting))
        acceptances = await self._mailboxes.append(posting)
        self._on_unheard(unheard(acceptances))
        return _stored(acceptances)


def _name(sealed: SealedEnvelope) -> MessageName:
    return MessageName(sealed.header.sender, sealed.header.message_id)


def _check_times(sealed: SealedEnvelope, latest: int) -> None:
    """Refuse what its recipients could not open yet, and would have to keep."""
    extension = sealed.signed_extension.extension
    times = {
        f"{HEADER}.send_time": sealed.header.send_time,
        f"{EXTENSION}.sign_time": extension.sign_time,
        f"{EXTENSION}.session_create_time": extension.session_create_time,
    }
    for field, time in times.items():
        if time > latest:
            raise invalid_field(field, "is more than five minutes ahead")


def _check_not_ahead(record: KeyRecord, claimed: int) -> None:
    if claimed > record.revision:
        raise revision_unknown(record.username, claimed)


def _stale(header: Header, parties: _Parties) -> Stale | None:
    """Return what an envelope was not sealed for, if there is any."""
    stale = Stale(
        parties.sender if header.sender_revision < parties.sender.revision else None,
        parties.recipient if header.recipient_revision < parties.recipient.revision else None,
    )
    return stale if stale.sender or stale.recipient else None


def _check_sender(caller: Key, sealed: SealedEnvelope) -> None:
    if sealed.header.sender != caller.address:
        raise sender_is_not_caller("the header names another sender than the caller")


def _check_signer(caller: Key, sealed: SealedEnvelope) -> None:
    if sealed.signed_extension.extension.signer.fingerprint != caller.fingerprint:
        raise sender_is_not_caller("the extension is signed by another key than the caller's")


def _check_suite(caller: Key, sealed: SealedEnvelope) -> None:
    if sealed.signed_extension.extension.suite is not caller.request.suite:
        raise invalid_field(f"{EXTENSION}.suite", "is not that of the key that signs")


def _check_can_act(caller: Key, record: KeyRecord, now: int) -> None:
    """Refuse a key that has ended since its token was verified."""
    try:
        check_can_act(record.get(caller.fingerprint), record, now)
    except ProtocolError as error:
        raise token_refused(error.reason) from error


def _check_rotation(sealed: SealedEnvelope, constants: Constants, now: int) -> None:
    """Refuse a session that nobody sends under any more; the sender's clock may be behind."""
    if not is_within_rotation(sealed.signed_extension.extension.session_create_time, constants, now - CLOCK_SKEW):
        raise session_stale("the session is older than the realm's rotation period", f"{EXTENSION}.session_create_time")


def _check_creator(sealed: SealedEnvelope, parties: _Parties, now: int) -> None:
    """Refuse a session of a key that is not good: who once held it must not choose what others encrypt under."""
    creator = sealed.signed_extension.extension.creator
    # It may expire between the sealing and here, and clocks differ.
    if not is_creator_good(creator, (parties.sender, parties.recipient), now - CLOCK_SKEW):
        raise session_stale("the session was not created by a good key of either user", f"{EXTENSION}.creator")


def _check_sealed_keys(sealed: SealedEnvelope, recipient: KeyRecord, now: int) -> None:
    """Refuse what is not sealed to exactly the good devices of its recipient."""
    _check_sealed_to_named(sealed)
    _check_named_are_good(sealed, recipient, now)
    for sealed_key in sealed.sealed_keys:
        if len(sealed_key.sealed_key) != recipient.get(sealed_key.fingerprint).suite.sealed_key_bytes:
            raise sealed_keys_mismatch("a sealed key has not the length that its device's suite gives it")


def _check_sealed_to_named(sealed: SealedEnvelope) -> None:
    named = [device.fingerprint for device in sealed.signed_extension.extension.recipient_devices]
    if sorted(named) != sorted(key.fingerprint for key in sealed.sealed_keys):
        raise sealed_keys_mismatch("the sealed keys are not those of the devices that the extension names")


def _check_named_are_good(sealed: SealedEnvelope, recipient: KeyRecord, now: int) -> None:
    # A key may expire between the sealing and here, and clocks differ: for so long both sets of devices are right.
    moments = (now, now - CLOCK_SKEW, now + CLOCK_SKEW)
    good = [_recipients(recipient, sealed.header.sender, when) for when in moments]
    devices = sorted(sealed.signed_extension.extension.recipient_devices)
    if not any(devices == sorted(DeviceKey.of(key) for key in keys) for keys in good):
        raise sealed_keys_mismatch(f"the good devices of {recipient.username} are others than the extension names")


def _recipients(record: KeyRecord, sender: Address, when: int) -> Iterable[Key]:
    # In the conversation of a user with himself the sending device is no recipient.
    return (key for key in record.good_keys(when) if key.address != sender)


def _check_room(
    acceptances: Mapping[Address, Acceptance],
    refusal: Outcome,
    error: Callable[[Iterable[Address]], ServiceError],
) -> None:
    if refusing := [address for address, acceptance in acceptances.items() if acceptance.outcome is refusal]:
        raise error(refusing)


def unheard(acceptances: Mapping[Address, Acceptance]) -> Collection[Address]:
    """Return the mailboxes into which something was put that nobody was woken by."""
    return [
        address
        for address, acceptance in acceptances.items()
        if acceptance.outcome is Outcome.APPENDED and not acceptance.heard
    ]


def _stored(acceptances: Mapping[Address, Acceptance]) -> Stored:
    _check_room(acceptances, Outcome.FULL, mailbox_full)
    _check_room(acceptances, Outcome.SHARE_FULL, sender_share_full)
    outcomes = [acceptance.outcome for acceptance in acceptances.values()]
    if Outcome.ID_USED in outcomes:
        raise message_id_used()
    appends = outcomes.count(Outcome.APPENDED)
    return Stored(min(acceptance.accept_time for acceptance in acceptances.values()), appends == 0, appends)
