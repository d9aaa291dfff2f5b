"""Where envelopes wait: the port that the service's rules are written against.

A mailbox belongs to one address (a device of a user), not to a key: it survives renewal. Everything here is
about bytes that wait; who may put them there is decided before.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from keypost.protocol.identifiers import Address

DELIVERY_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)
BEGINNING = "0-0"
"""The position before every delivery id."""


class MailboxesUnavailableError(Exception):
    """The store of the mailboxes does not answer, or cannot promise what was asked; the call may be repeated."""


class MailboxesOutOfMemoryError(MailboxesUnavailableError):
    """The store has no memory for more; nothing was put in, and what waits can be read and acknowledged."""


class ReceiverDisplacedError(Exception):
    """Another stream of the same device has claimed the mailbox."""


class Durability(enum.StrEnum):
    """What holds when a sender is told that a message is stored."""

    MEMORY = "memory"
    """It is in the memory of the server."""
    PROCESS = "process"
    """It survives the server's process; a power cut loses a second."""
    FSYNC = "fsync"
    """It is on the disk."""
    REPLICATED = "replicated"
    """It is on the disk, and on that of a replica."""


class Outcome(enum.Enum):
    """What became of an envelope at one mailbox."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    """The same bytes under the same name were accepted before."""
    ID_USED = "id_used"
    """Other bytes under the same name were accepted before."""
    FULL = "full"
    SHARE_FULL = "share_full"
    """There is room, but no more of it for this sending user."""

    @property
    def is_there(self) -> bool:
        """Whether the mailbox has the message, or had it."""
        return self in (Outcome.APPENDED, Outcome.DUPLICATE, Outcome.ID_USED)


@dataclass(frozen=True)
class MessageName:
    """What names a message within a mailbox for as long as the mailbox age.

    Attributes:
        sender: The sending device.
        message_id: 16 bytes, a UUIDv7.
    """

    sender: Address
    message_id: bytes


@dataclass(frozen=True)
class Posting:
    """One message on its way into the mailboxes of its recipient.

    Attributes:
        name: The message.
        digest: 32 bytes over everything that the sender handed in; tells a repetition from another message.
        accept_time: When the service accepts it, Unix milliseconds.
        mailbox_age: How long it may wait and is remembered, milliseconds.
        envelopes: For each device's mailbox a serialised Envelope with that device's sealed key alone.
        trace_context: The trace in which it is recorded, kept beside it; empty: in none. No part of its size.
    """

    name: MessageName
    digest: bytes
    accept_time: int
    mailbox_age: int
    envelopes: Mapping[Address, bytes]
    trace_context: str = ""


@dataclass(frozen=True)
class Acceptance:
    """What a mailbox knows of a message.

    Attributes:
        outcome: What became of this envelope.
        accept_time: When the first one of that name was accepted; 0 if none was.
        heard: Whether somebody watches the mailbox and was woken; for what ``append_all`` finds there, or puts there.
    """

    outcome: Outcome
    accept_time: int
    heard: bool = False


@dataclass(frozen=True)
class Waiting:
    """One envelope that waits.

    Attributes:
        delivery_id: Its name within the mailbox; later ones are greater, see ``position``.
        accept_time: When the service accepted it, Unix milliseconds.
        envelope: A serialised Envelope.
        attempts: Under how many claims it has been handed out, this one included: 1 the first time.
        trace_context: The trace in which it is recorded; empty: in none.
    """

    delivery_id: str
    accept_time: int
    envelope: bytes
    attempts: int
    trace_context: str = ""


@dataclass(frozen=True)
class Load:
    """What a mailbox holds: the number of envelopes that wait, and their bytes."""

    messages: int
    size: int


@dataclass(frozen=True)
class Backlog:
    """What waits in a mailbox, without what it is.

    Attributes:
        messages: How many envelopes.
        oldest_accept_time: When the first of them was accepted, Unix milliseconds; 0 if there is none.
    """

    messages: int
    oldest_accept_time: int


@dataclass(frozen=True)
class MailboxLimits:
    """How much a mailbox holds: so many envelopes, and so many bytes of them.

    Attributes:
        messages: Envelopes.
        size: Bytes of envelopes.
        sender_percent: How much of either the envelopes of one sending user may take up, percent; what is left, others
            can still use.
    """

    messages: int = 10_000
    size: int = 64 * 1024 * 1024
    sender_percent: int = 100

    @property
    def sender_messages(self) -> int:
        """How many envelopes of one sending user a mailbox holds: one at least."""
        return max(1, self.messages * self.sender_percent // 100)

    @property
    def sender_size(self) -> int:
        """How many bytes of envelopes of one sending user a mailbox holds."""
        return self.size * self.sender_percent // 100


@dataclass(frozen=True)
class Page:
    """How much to read at once.

    Attributes:
        messages: So many envelopes; with 0 the claim is checked all the same.
        size: So many bytes; one larger envelope comes alone.
    """

    messages: int
    size: int = 1024 * 1024


@dataclass(frozen=True)
class Claim:
    """The right of one stream to read a mailbox, until another stream claims it.

    Attributes:
        address: The mailbox.
        receiver: The name of the stream, unique among all replicas.
        number: Which of the mailbox's claims it is, from ``claim_number``: of two the higher one holds, whichever of
            them arrives last.
    """

    address: Address
    receiver: str
    number: int


class WakeUps(Protocol):
    """Says that a mailbox may have changed.

    It may say so too often, and may miss it: whoever waits reads now and then all the same.
    """

    async def wait(self) -> None:
        """Return when something was said since the last return."""


class Mailboxes(Protocol):
    """The store of all mailboxes. Every method may raise :class:`MailboxesUnavailableError`."""

    async def append_all(
        self, postings: Sequence[Posting]
    ) -> Sequence[Mapping[Address, Acceptance] | MailboxesUnavailableError]:
        """Append messages to each mailbox that does not know their names, and wake the receivers of all that have them.

        Each mailbox decides for itself, atomically. When this returns, what was accepted is as durable as the
        store promises. At most 512 at once, in one round trip. Within a mailbox they are appended in the order given.
        Where a sending user was refused for want of room, nothing else of his gets in by the same call: it would
        overtake.

        Returns:
            For each message, in their order, what its mailboxes say, or why one of them said nothing.
        """

    async def foresee_all(
        self, postings: Sequence[Posting]
    ) -> Sequence[Mapping[Address, Acceptance] | MailboxesUnavailableError]:
        """Return what ``append_all`` would say now; nothing is appended, and until then anything may change."""

    async def find(self, name: MessageName, addresses: Collection[Address], since: int) -> Mapping[Address, bytes]:
        """Return the digests under which a message was accepted at that time or later, by mailbox that knows it."""

    async def claim_number(self, address: Address) -> int:
        """Return a number for a claim of a mailbox, higher than all before."""

    async def claim(self, claim: Claim) -> str:
        """Claim a mailbox, displacing whoever held it; returns the last delivery id there is (or ``BEGINNING``).

        Raises:
            ReceiverDisplacedError: there was a claim with a higher number.
        """

    async def release(self, claim: Claim) -> None:
        """Give a claim up; nothing happens if it is another's by now."""

    async def read(self, claim: Claim, after: str, page: Page, oldest: int) -> Sequence[Waiting]:
        """Return the next envelopes after a delivery id, in order; those accepted before ``oldest`` are forgotten.

        What was handed out may come again: where the store has lost the end of what it knew, it goes on from there.

        Raises:
            ReceiverDisplacedError: the mailbox is claimed by another stream.
        """

    async def acknowledge(self, address: Address, delivery_ids: Collection[str]) -> int:
        """Forget envelopes; returns how many there were. Ids that are unknown, or none at all, are ignored.

        So is one that was not handed out, as far as the store knows: where it has lost the end of what it knew, it may
        be another envelope's by now. What was handed out then comes again.
        """

    async def empty(self, address: Address) -> int:
        """Forget everything that waits in a mailbox; returns how many envelopes that were."""

    async def waiting(self, address: Address) -> Load:
        """Return what a mailbox holds."""

    async def backlogs(self, addresses: Collection[Address]) -> Mapping[Address, Backlog]:
        """Return what waits in each of these mailboxes; nothing changes, and nobody's claim matters."""

    def watch(self, address: Address) -> AbstractAsyncContextManager[WakeUps]:
        """Return a context in which wake-ups of a mailbox arrive, one at least once the subscription stands."""


def position(delivery_id: str) -> tuple[int, int]:
    """Return what orders delivery ids."""
    time, _, number = delivery_id.partition("-")
    return int(time), int(number)
