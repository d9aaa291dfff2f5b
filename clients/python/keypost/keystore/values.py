"""What the local key store holds, as plain values.

Everything that is a secret, or that a stranger with write access to the disk must not change, is sealed at
rest; in the clear are only names, states, times and numbers. No ``repr`` here shows a secret.

Times are Unix milliseconds. A fingerprint is 32 bytes. A message id is 16 bytes. A conversation is the pair
of its two usernames, sorted (``keypost.protocol.identifiers.conversation_of``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keypost.protocol.identifiers import Address

Conversation = tuple[str, str]
"""Two usernames, sorted; twice the same one for the conversation of a user with himself."""


class KeyPairState(StrEnum):
    """What a key pair of this device is to it."""

    PENDING = "pending"
    """Written before the CA is asked; the CA may or may not have recorded it."""
    CURRENT = "current"
    """The one that signs and authenticates."""
    REPLACED = "replaced"
    """Opens what was sealed to it while negotiations were under way, nothing else."""


class InboxState(StrEnum):
    """How far a received message has come."""

    NEW = "new"
    """The application has not seen it."""
    HANDED_OUT = "handed_out"
    """The application has been given it, and has not said that it is done."""
    HANDLED = "handled"
    """The application is done with it."""


@dataclass(frozen=True)
class Profile:
    """Who this installation is.

    Attributes:
        realm: The realm.
        bundle: The serialised bundle that it started from.
        address: The own address, or ``None`` before enrolment.
    """

    realm: str
    bundle: bytes = field(repr=False)
    address: Address | None


@dataclass(frozen=True)
class StoredRealmTrust:
    """The newest realm trust that was verified.

    Attributes:
        sequence: Its sequence number.
        signed: The serialised ``SignedRealmTrust``.
    """

    sequence: int
    signed: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyPair:
    """One key pair of this device.

    Attributes:
        fingerprint: The fingerprint of the public key.
        suite: Its suite, the value of the enum ``Suite``.
        private_key_der: The private key (PKCS #8, DER). Secret.
        key_request: The serialised ``SignedKeyRequest`` by which it enters, or entered, the record.
        state: Pending, current or replaced.
        replaced_time: When it was replaced; ``None`` unless it is.
    """

    fingerprint: bytes
    suite: int
    private_key_der: bytes = field(repr=False)
    key_request: bytes = field(repr=False)
    state: KeyPairState
    replaced_time: int | None = None


@dataclass(frozen=True)
class StoredRecord:
    """The newest key info of a user.

    Attributes:
        username: The user.
        epoch: Of the record.
        revision: Of the record.
        this_update: When the record was made.
        key_info: The serialised ``KeyInfo`` as received.
    """

    username: str
    epoch: int
    revision: int
    this_update: int
    key_info: bytes = field(repr=False)


@dataclass(frozen=True)
class Evidence:
    """What contradicts what is known: two statements that cannot both be right, or a change of identity.

    Attributes:
        username: The user concerned.
        reason: The reason of the error, such as ``IDENTITY_CHANGED`` or ``EQUIVOCATION``.
        previous: The serialised ``KeyInfo`` that was held.
        current: The serialised ``KeyInfo`` that contradicts it; for ``DEVICES_DIFFER`` the ``KeyExtension``; empty if
            the directory denied that there is such a user.
        time: When it was noticed, Unix milliseconds.
    """

    username: str
    reason: str
    previous: bytes = field(repr=False)
    current: bytes = field(repr=False)
    time: int


@dataclass(frozen=True)
class StoredSession:
    """A session key and where it comes from.

    Attributes:
        conversation: The conversation that it serves.
        key_id: Its name, 32 bytes.
        suite: The suite of the session, the value of the enum ``Suite``.
        creator: The device that created it.
        creator_fingerprint: The key with which it did.
        create_time: The session_create_time.
        session_key: The session key. Secret.
        messages_sent: How many messages this device sent under it.
    """

    conversation: Conversation
    key_id: bytes
    suite: int
    creator: Address
    creator_fingerprint: bytes
    create_time: int
    session_key: bytes = field(repr=False)
    messages_sent: int = 0


@dataclass(frozen=True)
class StoredStatement:
    """The extension statement of one signer for one session, as received and verified.

    Attributes:
        signer: The device that signed.
        extension: The serialised ``Extension``.
        signature: The signature over it.
    """

    signer: Address
    extension: bytes
    signature: bytes


@dataclass(frozen=True)
class OwnExtension:
    """This device's own key extension for a session, to be sent with every message under it.

    Attributes:
        extension: The serialised ``Extension``.
        signature: This device's signature over it.
        sealed_keys: (fingerprint, sealed session key) for every device of the recipient.
    """

    extension: bytes
    signature: bytes
    sealed_keys: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class ReceivedMark:
    """What the counter of a received message says.

    Attributes:
        previous: The highest counter seen before from that device in that conversation; 0 if none. At 0 the
            messages before this one may be older than this device, and are then not for it.
        missed: How many messages between ``previous`` and this one have not come (yet).
        clone_of: The id of another message with the same counter: ``CloneSuspected``.
    """

    previous: int
    missed: int
    clone_of: bytes | None


@dataclass(frozen=True)
class InboxMessage:
    """A message that was opened and verified.

    Attributes:
        message_id: Its id.
        sender: The device that sent it.
        conversation: The conversation.
        key_id: The session that it came under.
        counter: The sender's counter.
        send_time: By the sender's clock.
        accept_time: By delivery's clock.
        missed: How many messages before it have not come, when it came.
        content: The serialised ``Content``, or what the client makes of it. Secret.
        sequence: Its place in the inbox, from 1; 0 before it is added.
        redelivered: Whether it had been handed out before and was never handled.
        attempts: How often it has been handed out; while it is, this time counted.
        verified: Whether the identity of the sender was verified when the message was opened.
    """

    message_id: bytes
    sender: Address
    conversation: Conversation
    key_id: bytes
    counter: int
    send_time: int
    accept_time: int
    missed: int
    content: bytes = field(repr=False)
    sequence: int = 0
    redelivered: bool = False
    attempts: int = 0
    verified: bool = False


@dataclass(frozen=True)
class WaitingEnvelope:
    """An envelope that cannot be opened yet, or never will be, as received.

    Attributes:
        envelope: The serialised ``Envelope``.
        accept_time: When delivery accepted it.
        receive_time: When this device received it.
        reason: Why it waits, or why it was set aside: the reason of the error.
        username: The user whose record it waits for (the sender's).
        sealed_to: The fingerprint of the own key that its session key is sealed to; empty if not known.
        sequence: Its place in the list, from 1; 0 before it is added.
        came: The sequence with which it first came, if it was in another list before; 0 if not.
    """

    envelope: bytes = field(repr=False)
    accept_time: int
    receive_time: int
    reason: str
    username: str
    sealed_to: bytes = b""
    sequence: int = 0
    came: int = 0

    @property
    def arrival(self) -> int:
        """The sequence with which it first came, to be held against a closing mark."""
        return self.came or self.sequence


@dataclass(frozen=True)
class Totals:
    """How full a list is.

    Attributes:
        count: Its rows.
        size: Their bytes, before sealing.
    """

    count: int
    size: int


@dataclass(frozen=True)
class OutgoingMessage:
    """A message on its way out; a retry keeps its id and counter.

    Attributes:
        message_id: Its id.
        recipient: The username of the recipient.
        counter: Its counter, from ``Counters.next_send``.
        create_time: When the application sent it.
        content: The serialised ``Content``. Secret.
        trace_context: The trace in which its way is recorded; empty: in none. Makes no other message of it.
    """

    message_id: bytes
    recipient: str
    counter: int
    create_time: int
    content: bytes = field(repr=False)
    trace_context: str = field(default="", compare=False)


@dataclass(frozen=True)
class StoredFile:
    """A file that is arriving, or has arrived, in parts.

    Attributes:
        sender: The device that sends it.
        file_id: Its id, 16 bytes.
        name: The name that the sender gave it. Not to be trusted as a path.
        media_type: Its media type.
        count: How many parts there are.
        size: Bytes of the whole.
        sha256: SHA-256 of the whole, 32 bytes.
        received: How many parts are here.
    """

    sender: Address
    file_id: bytes
    name: str
    media_type: str
    count: int
    size: int
    sha256: bytes
    received: int = 0

    @property
    def complete(self) -> bool:
        """Whether all parts are here."""
        return self.received == self.count


@dataclass(frozen=True)
class Transfer:
    """A file on its way out, in parts.

    Attributes:
        file_id: Its id, 16 bytes.
        recipient: The username of the recipient.
        path: Where it is on this device, absolute.
        modify_time_ns: When it was modified last, in Unix nanoseconds, as the file system says.
        name: The name that goes along.
        media_type: Its media type.
        count: How many parts there are.
        size: Bytes of the whole.
        sha256: SHA-256 of the whole, 32 bytes.
        create_time: When it was to be sent.
        next: The first part that is not begun: those before are in the outbox, or delivery has them.
    """

    file_id: bytes
    recipient: str
    path: str
    modify_time_ns: int
    name: str
    media_type: str
    count: int
    size: int
    sha256: bytes
    create_time: int
    next: int = 0

    def touched(self, modify_time_ns: int) -> Transfer:
        """Return the same with another time of modification."""
        return replace(self, modify_time_ns=modify_time_ns)


@dataclass(frozen=True)
class Limits:
    """How much the store takes of what others can fill.

    Attributes:
        waiting_count: Envelopes that wait; the newest of the user who takes most are set aside.
        waiting_size: Their bytes.
        set_aside_count: Envelopes set aside; the oldest make room.
        set_aside_size: Their bytes.
        user_count: Envelopes of one sending user in one of these lists.
        user_size: Their bytes.
        outbox_count: Messages on their way out.
        outbox_size: Their bytes.
        transfers_count: Files on their way out.
        incomplete_file_size: Bytes received of all files of which parts are missing; the stalest of the sender who
            takes most make room.
        evidence_count: Evidence kept for each user and reason; the first ones stay.
    """

    waiting_count: int = 10_000
    waiting_size: int = 256 * 1024 * 1024
    set_aside_count: int = 10_000
    set_aside_size: int = 256 * 1024 * 1024
    user_count: int = 1_000
    user_size: int = 32 * 1024 * 1024
    outbox_count: int = 10_000
    outbox_size: int = 256 * 1024 * 1024
    transfers_count: int = 1_000
    incomplete_file_size: int = 4 * 1024 * 1024 * 1024
    evidence_count: int = 16
