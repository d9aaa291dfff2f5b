"""Taking envelopes in, one or many: whether they may wait (``judging``), whether they do already, into the mailboxes.

Whatever would refuse an envelope first asks whether it is stored already: then it is answered as stored, whatever has
changed since.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from keypost.clock import MINUTE
from keypost.tracing import Traces
from keypost_services.delivery.emptying import revoked_devices
from keypost_services.delivery.errors import MESSAGE_ID_USED, mailbox_full, message_id_used, sender_share_full
from keypost_services.delivery.judging import Judging, Stale
from keypost_services.delivery.mailboxes import (
    Acceptance,
    Mailboxes,
    MailboxesUnavailableError,
    MessageName,
    Outcome,
    Posting,
)
from keypost_services.delivery.trust import realm_constants
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from keypost.clock import Clock
    from keypost.protocol.extension import DeviceKey
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key
    from keypost_services.delivery.envelopes import Conversation, Incoming
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
class Held:
    """The envelope was not looked at: an earlier one of its conversation was not stored."""


APPEND = "FCALL append"
APPEND_FACTS = {"db.system.name": "redis", "db.operation.name": "FCALL", "db.stored_procedure.name": "append"}
Answer = Stored | ServiceError | MailboxesUnavailableError | Held
"""What became of an envelope that may wait."""
R = TypeVar("R")
_UNREFUSED = Stored(0, duplicate=False, appends=0)
REMEMBERED = MINUTE
"""For how long a mailbox must still remember a message that counts as stored: until the batch has its turn there."""


@dataclass(frozen=True)
class Admitted:
    """An envelope that may wait.

    Attributes:
        incoming: The envelope.
        devices: The keys of the devices whose mailboxes it belongs into.
    """

    incoming: Incoming
    devices: Collection[DeviceKey]


class Sending:
    """Takes envelopes in.

    Args:
        mailboxes: Where they go.
        records: The users' records.
        trust: The realm's constants.
        clock: The time; accept_time comes from it.
        on_unheard: Told for which devices something was stored that nobody was woken by: they are not connected.
        on_revoked: Told into which mailboxes something may have been put whose devices were revoked meanwhile.
        traces: Tells how long the mailboxes took, of messages that are recorded.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        records: Records,
        trust: TrustKeeper,
        clock: Clock,
        *,
        on_unheard: Callable[[Collection[Address]], None],
        on_revoked: Callable[[Collection[Address]], None],
        traces: Traces | None = None,
    ) -> None:
        self._mailboxes = mailboxes
        self._records = records
        self._trust = trust
        self._clock = clock
        self._on_unheard = on_unheard
        self._on_revoked = on_revoked
        self._traces = traces or Traces(on=False)

    async def send(self, caller: Key, incoming: Incoming) -> Stored | Stale:
        """Store an envelope for every device of its recipient.

        Args:
            caller: The key by which the calling device showed itself.
            incoming: The envelope, well-formed.

        Raises:
            ServiceError: as ``Send`` in the protos.
            MailboxesUnavailableError: the mailboxes cannot be reached.
        """
        admitted = await self.admit(self.judging(caller), incoming)
        if isinstance(admitted, Stale):
            return admitted
        (answer,) = await self.store([admitted])
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Stored)  # noqa: S101  # for the type checker: nothing before it holds it
        return answer

    def judging(self, caller: Key) -> Judging:
        """Return what judges the envelopes of one batch, as things are now."""
        return Judging(caller, self._records, self._trust, self._clock())

    async def admit(self, judging: Judging, incoming: Incoming) -> Admitted | Stale:
        """Return an envelope that may wait, or what is stale about it.

        Raises:
            ServiceError: it may not.
            MailboxesUnavailableError: the mailboxes cannot be reached.
        """
        judging.check_sender(incoming)
        verdict = await judging.judge(incoming)
        if verdict is None:
            return Admitted(incoming, incoming.known.extension.recipient_devices)
        if (known := await self._accepted_before(incoming)) is not None:
            return Admitted(incoming, known)
        if isinstance(verdict, ServiceError):
            raise verdict
        return verdict

    async def _accepted_before(self, incoming: Incoming) -> Collection[DeviceKey] | None:
        """Return the devices that an envelope belongs to which is stored already, in some mailbox at least; else None.

        A Send that broke off between two mailboxes was accepted all the same, and is completed; yet a device that has
        been withdrawn since gets nothing more. Of other bytes under the same name nobody has judged whether they may
        wait: they complete nothing here, they may only learn from the mailboxes that nothing is missing.
        """
        extension = incoming.known.extension
        devices = extension.recipient_devices
        # What is about to be forgotten would be put in again, though something speaks against it.
        since = self._clock() + REMEMBERED - (await realm_constants(self._trust)).mailbox_age
        known = await self._mailboxes.find(_name(incoming), [device.address for device in devices], since)
        accepted, complete = incoming.digest in known.values(), len(known) == len(devices)
        if complete:
            return devices  # what it is answered, they say themselves: what is said here is as durable as they promise
        if not accepted:
            return None
        recipient = await self._records.current(extension.recipient_username)
        good = {key.address for key in recipient.good_keys(self._clock())}
        return [device for device in devices if device.address in known or device.address in good]

    async def store(self, admitted: Sequence[Admitted]) -> Sequence[Answer]:
        """Put envelopes into their mailboxes, in their order; return what became of each.

        Raises:
            ServiceError: DIRECTORY_UNAVAILABLE.
        """
        mailbox_age, now = (await realm_constants(self._trust)).mailbox_age, self._clock()
        postings = [_posting(one, now, mailbox_age) for one in admitted]
        conversations = [one.incoming.known.conversation for one in admitted]
        answers, _ = hold_back(conversations, await self._foresee(postings))
        left = [posting for posting, answer in zip(postings, answers, strict=True) if isinstance(answer, Stored)]
        try:
            with self._storing(left):
                results = await self._mailboxes.append_all(left) if left else ()
        finally:  # whatever was answered, or not waited for
            self._on_revoked(self._revoked_meanwhile(admitted))
        self._on_unheard(unheard(results))
        appended = map(_answer, results)
        answers, _ = hold_back(
            conversations, [next(appended) if isinstance(answer, Stored) else answer for answer in answers]
        )
        return answers

    @contextlib.contextmanager
    def _storing(self, postings: Iterable[Posting]) -> Iterator[None]:
        """Tell of the messages that are recorded that they are being put into their mailboxes."""
        recorded = [posting.trace_context for posting in postings if posting.trace_context]
        spans = [self._traces.begin(APPEND, "CLIENT", follows=context, facts=APPEND_FACTS) for context in recorded]
        failure = "MAILBOXES_UNAVAILABLE"
        try:
            yield
            failure = ""
        finally:
            for span in spans:
                span.end(failure)

    def _revoked_meanwhile(self, admitted: Iterable[Admitted]) -> Collection[Address]:
        """Return the devices that envelopes are sealed to by a record that is no longer the newest, and are revoked."""
        revoked: set[Address] = set()
        for known in {one.incoming.known for one in admitted}:
            extension = known.extension
            record = self._records.newest(extension.recipient_username)
            if record is not None and record.revision > extension.recipient_revision:
                revoked |= revoked_devices(record).intersection(
                    device.address for device in extension.recipient_devices
                )
        return revoked

    async def _foresee(self, postings: Sequence[Posting]) -> Sequence[Answer]:
        """Return what will become of envelopes as far as is known: each of several mailboxes decides for itself."""
        several = [posting for posting in postings if len(posting.envelopes) > 1]
        foreseen = iter(await self._mailboxes.foresee_all(several) if several else ())
        return [_foreseen(next(foreseen)) if len(posting.envelopes) > 1 else _UNREFUSED for posting in postings]


def hold_back(
    conversations: Iterable[Conversation | None], results: Sequence[R]
) -> tuple[Sequence[R | Held], set[Conversation]]:
    """Hold back what would overtake: of each conversation nothing but ``Held`` after the first that is not there.

    Args:
        conversations: Of what each result is; None if that could not be told, and then it holds nothing back.
        results: What became of envelopes, in their order.

    Returns:
        The results, and the conversations that are held from now on.
    """
    refused: set[Conversation] = set()
    held: list[R | Held] = []
    for conversation, result in zip(conversations, results, strict=True):
        if conversation in refused:
            held.append(Held())
            continue
        if conversation is not None and not is_there(result):
            refused.add(conversation)
        held.append(result)
    return held, refused


def is_there(result: object) -> bool:
    """Return whether a result says that the message has got into every mailbox: nothing overtakes it then."""
    return isinstance(result, Stored) or (isinstance(result, ServiceError) and result.reason == MESSAGE_ID_USED)


def _name(incoming: Incoming) -> MessageName:
    return MessageName(incoming.known.extension.signer.address, incoming.message_id)


def _posting(admitted: Admitted, now: int, mailbox_age: int) -> Posting:
    incoming = admitted.incoming
    return Posting(
        name=_name(incoming),
        digest=incoming.digest,
        accept_time=now,
        mailbox_age=mailbox_age,
        envelopes={device.address: incoming.for_key(device.fingerprint) for device in admitted.devices},
        trace_context=incoming.trace_context,
    )


def unheard(results: Iterable[Mapping[Address, Acceptance] | MailboxesUnavailableError]) -> Collection[Address]:
    """Return the mailboxes that have something that nobody was woken by; it may have been put there before."""
    return {
        address
        for acceptances in results
        if not isinstance(acceptances, MailboxesUnavailableError)
        for address, acceptance in acceptances.items()
        if acceptance.outcome.is_there and not acceptance.heard
    }


def _answer(acceptances: Mapping[Address, Acceptance] | MailboxesUnavailableError) -> Answer:
    """Return what the mailboxes of one recipient say together.

    One that knows other bytes under the name has the message: it was sealed again after it had got into some mailboxes.
    So it is stored if any has these bytes, and with those that have the other ones none is missing.
    """
    foreseen = _foreseen(acceptances)
    if isinstance(acceptances, MailboxesUnavailableError) or not isinstance(foreseen, Stored):
        return foreseen
    outcomes = [acceptance.outcome for acceptance in acceptances.values()]
    if all(outcome is Outcome.ID_USED for outcome in outcomes):
        return message_id_used()
    appends = outcomes.count(Outcome.APPENDED)
    return Stored(min(acceptance.accept_time for acceptance in acceptances.values()), appends == 0, appends)


def _foreseen(acceptances: Mapping[Address, Acceptance] | MailboxesUnavailableError) -> Answer:
    """Return why an envelope is not put into any mailbox, if one of them has no room; what is there, append alone says.

    Only it waits until what it answers is as durable as promised.
    """
    if isinstance(acceptances, MailboxesUnavailableError):
        return acceptances
    for outcome, refusal in _REFUSALS.items():
        if full := [address for address, acceptance in acceptances.items() if acceptance.outcome is outcome]:
            return refusal(full)
    return _UNREFUSED


_REFUSALS: Mapping[Outcome, Callable[[Iterable[Address]], ServiceError]] = {
    Outcome.FULL: mailbox_full,
    Outcome.SHARE_FULL: sender_share_full,
}
"""Which refusal counts, the first before the other."""
