"""The interface of the local key store: what the client keeps on this device, and nothing about how.

Open one with ``open_store``, ``create_store`` or ``create_memory_store`` of ``keypost.keystore``. The parts hang off
one ``KeyStore``; whatever is written inside ``with store.transaction():`` is written whole or not at all, across all
parts, and is on the disk when the block ends. Outside such a block every method is a transaction of its own. All
methods block; call them from one thread at a time.

Every method may raise ``KeyStoreTamperedError`` (a sealed value was changed or moved) and
``KeyStoreUnavailableError`` (the disk, or a closed store); beyond these only what it names. Lists come in
pages, so memory stays bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractContextManager

    from keypost.keystore.copies import Snapshot
    from keypost.keystore.unlock import Unlock
    from keypost.keystore.values import (
        Conversation,
        Evidence,
        InboxMessage,
        KeyPair,
        OutgoingMessage,
        OwnExtension,
        Profile,
        ReceivedMark,
        StoredFile,
        StoredRealmTrust,
        StoredRecord,
        StoredSession,
        StoredStatement,
        Transfer,
        WaitingEnvelope,
    )
    from keypost.protocol.identifiers import Address


class ProfilePart(Protocol):
    """Who this installation is, and whom it trusts."""

    def read(self) -> Profile:
        """Return the profile."""
        ...

    def set_address(self, address: Address) -> None:
        """Note the own address, once the CA has recorded the device; a new enrolment replaces it."""
        ...

    def set_bundle(self, bundle: bytes) -> None:
        """Replace the serialised bundle."""
        ...

    def realm_trust(self) -> StoredRealmTrust | None:
        """Return the newest realm trust, or ``None`` before the first."""
        ...

    def set_realm_trust(self, trust: StoredRealmTrust) -> None:
        """Keep a verified realm trust.

        Raises:
            KeyStoreConflictError: Its sequence is lower than that of the one held, or equal with other bytes.
        """
        ...

    def note(self, name: str) -> bytes | None:
        """Return the note of that name, or ``None``: room for small state of the client's own, sealed."""
        ...

    def set_note(self, name: str, value: bytes | None) -> None:
        """Write the note of that name; ``None`` removes it."""
        ...


class KeyPairPart(Protocol):
    """The key pairs of this device: at most one pending, at most one current, any number replaced."""

    def add_pending(self, fingerprint: bytes, suite: int, private_key_der: bytes, key_request: bytes) -> None:
        """Write a new key pair down, before the CA is asked to record it. The same again is no error.

        Raises:
            KeyStoreConflictError: Another one is pending (``destroy`` it first), or this one is past that
            state.
        """
        ...

    def set_key_request(self, fingerprint: bytes, key_request: bytes) -> None:
        """Replace the request of the pending pair, when the CA wants another nonce or revision.

        Raises:
            KeyStoreConflictError: No such pair is pending.
        """
        ...

    def promote(self, fingerprint: bytes, replaced_time: int) -> None:
        """Make the pending pair current; the one that was current is replaced since ``replaced_time``.

        Doing it again is no error.

        Raises:
            KeyStoreConflictError: No such pair is pending or current.
        """
        ...

    def retire(self, replaced_time: int) -> None:
        """Have no pair pending or current any more: all of them only open what was sealed to them.

        For a device whose keys others have replaced for good, and that begins anew.
        """
        ...

    def pending(self) -> KeyPair | None:
        """Return the pending pair."""
        ...

    def current(self) -> KeyPair | None:
        """Return the current pair."""
        ...

    def find(self, fingerprint: bytes) -> KeyPair | None:
        """Return the pair with that fingerprint, whatever its state."""
        ...

    def replaced(self) -> tuple[KeyPair, ...]:
        """Return the replaced pairs, the last replaced first."""
        ...

    def destroy(self, fingerprint: bytes) -> None:
        """Destroy a pending or replaced pair, on the disk too. Unknown is no error.

        Raises:
            KeyStoreConflictError: It is the current one.
        """
        ...


class RecordPart(Protocol):
    """What is known of users: newest key info, pins, evidence, and the keys no longer listened to."""

    def find(self, username: str) -> StoredRecord | None:
        """Return the newest verified key info of a user."""
        ...

    def put(self, record: StoredRecord) -> None:
        """Keep a verified key info, unless a newer one of the same revision is held.

        Raises:
            KeyStoreConflictError: Its epoch or revision is lower than that of the one held.
        """
        ...

    def usernames(self) -> tuple[str, ...]:
        """Return all users of whom a record is held, sorted."""
        ...

    def forget(self, username: str) -> None:
        """Forget the record and the pins of a user; evidence stays. Unknown is no error."""
        ...

    def pins(self, username: str) -> bytes | None:
        """Return the pins of a user, as ``keypost.protocol.continuity`` serialised them."""
        ...

    def set_pins(self, username: str, pins: bytes | None) -> None:
        """Replace the pins of a user, or remove them."""
        ...

    def add_evidence(self, evidence: Evidence) -> None:
        """Keep evidence; the same again is no error. Beyond the limit for a user and reason the first ones stay."""
        ...

    def evidence(self, username: str) -> tuple[Evidence, ...]:
        """Return the evidence about a user, oldest first."""
        ...

    def close_keys(self, fingerprints: Collection[bytes], time: int, mark: int) -> None:
        """Note that nothing by these (replaced or revoked) keys is opened if it comes from now on.

        Args:
            fingerprints: The keys; one that is closed stays as it was closed.
            time: Now.
            mark: The sequence of the newest envelope that waits or was set aside (``EnvelopePart.newest``): what is
                here came in time.
        """
        ...

    def closing_mark(self, fingerprint: bytes) -> int | None:
        """Return the mark with which a key was closed, ``None`` if it is not."""
        ...


class SessionPart(Protocol):
    """Session keys, and the extension statements seen and made for them."""

    def add(self, session: StoredSession) -> None:
        """Keep a session (of one's own, or after a successful step 14). The same again is no error.

        Being the same ignores ``messages_sent``, and does not change it.

        Raises:
            KeyStoreConflictError: That key_id names another key or creator in this conversation.
        """
        ...

    def find(self, conversation: Conversation, key_id: bytes) -> StoredSession | None:
        """Return one session."""
        ...

    def newest(self, conversation: Conversation, limit: int = 32) -> tuple[StoredSession, ...]:
        """Return the sessions of a conversation with the highest (create_time, key_id), highest first."""
        ...

    def highest_create_time(self, conversation: Conversation) -> int:
        """Return the highest session_create_time ever kept in the conversation, pruned or not; 0 if none."""
        ...

    def count_messages(self, conversation: Conversation, key_id: bytes, count: int = 1) -> int:
        """Count messages that this device sends under a session, and return how many they make with those before.

        Raises:
            KeyStoreConflictError: There is no such session.
        """
        ...

    def add_statement(self, conversation: Conversation, key_id: bytes, statement: StoredStatement) -> None:
        """Keep the statement of a signer for a session. The same bytes again are no error.

        Raises:
            KeyStoreConflictError: The signer made another statement for it, or there is no such session.
        """
        ...

    def statement(self, conversation: Conversation, key_id: bytes, signer: Address) -> StoredStatement | None:
        """Return what that signer stated for a session."""
        ...

    def set_own_extension(self, conversation: Conversation, key_id: bytes, own: OwnExtension) -> None:
        """Keep the own key extension of a session. The same again is no error.

        Raises:
            KeyStoreConflictError: There is another one, or no such session.
        """
        ...

    def own_extension(self, conversation: Conversation, key_id: bytes) -> OwnExtension | None:
        """Return the own key extension of a session."""
        ...


class CounterPart(Protocol):
    """The counters of messages, per sending device and conversation, and the marks against replays."""

    def next_send(self, conversation: Conversation) -> int:
        """Take the next counter of this device in a conversation, from 1, across sessions and renewals.

        It is taken when the transaction is committed, and then never again: send only after that.
        """
        ...

    def begin_count(self) -> None:
        """Begin a new count: every counter from now on is above all that another copy of this store can have used."""
        ...

    def is_received(self, sender: Address, message_id: bytes) -> bool:
        """Return whether that message was opened before: a replay."""
        ...

    def mark_received(
        self, sender: Address, conversation: Conversation, counter: int, message_id: bytes, now: int
    ) -> ReceivedMark:
        """Mark a message as received, after it was decrypted, in the transaction that keeps it.

        Raises:
            KeyStoreConflictError: It is marked already.
        """
        ...

    def missed(self, sender: Address, conversation: Conversation) -> int:
        """Return how many messages of that device in that conversation have not come, since the first that did.

        One that comes late counts no longer.
        """
        ...


class InboxPart(Protocol):
    """Opened messages, for the application, in the order in which they were kept."""

    def add(self, message: InboxMessage) -> int:
        """Keep a message, and return its sequence.

        The argument's own ``sequence`` and ``redelivered`` are ignored.

        Raises:
            KeyStoreConflictError: That message is there already.
        """
        ...

    def next_unhandled(self, after: int = 0) -> InboxMessage | None:
        """Hand out the oldest message that is not handled and whose sequence is above ``after``.

        It is marked as handed out, and that is counted; ``redelivered`` says whether it was before.
        """
        ...

    def set_aside(self, sequence: int) -> None:
        """Hand a message out no more, until it is brought back. Unknown is no error."""
        ...

    def page_set_aside(self, after: int = 0, *, limit: int = 64) -> tuple[InboxMessage, ...]:
        """Return the next messages that are handed out no more, in the order in which they were kept.

        Args:
            after: The sequence after which to begin.
            limit: How many at most.
        """
        ...

    def bring_back(self) -> int:
        """Hand out again whatever was set aside, counted from the beginning; return how many messages these are."""
        ...

    def set_handled(self, sequence: int) -> None:
        """Note that the application is done with a message. Unknown, or done before, is no error."""
        ...

    def find(self, sender: Address, message_id: bytes) -> InboxMessage | None:
        """Return a message without handing it out, handled or not."""
        ...

    def forget(self, sequence: int) -> None:
        """Erase a handled message at once, instead of at the next ``prune``. Others stay."""
        ...


class AttemptPart(Protocol):
    """How often it was begun to take an envelope in that came again and again; by the SHA-256 of its bytes."""

    def begin(self, digest: bytes, now: int) -> int:
        """Count one more attempt, and return how many there are, this one counted."""
        ...

    def take_back(self, digest: bytes) -> None:
        """Count one attempt less: it was not the envelope that failed. Unknown is no error."""
        ...

    def end(self, digest: bytes) -> None:
        """Forget the attempts, in the transaction that keeps the envelope or what is in it. Unknown is no error."""
        ...


class EnvelopePart(Protocol):
    """A list of raw envelopes: those that wait (not yet), or those set aside (never)."""

    def add(self, envelope: WaitingEnvelope) -> int:
        """Keep an envelope, and return its sequence. The same bytes again are no error and change nothing.

        The waiting list refuses when a user's share of it is full; when all of it is, the newest of the user who
        takes most are set aside, unless that is this one. Set aside, the oldest of that user or of the one who takes
        most make room. Who takes most is judged by what is full, places or bytes. ``dropped`` counts both.

        Raises:
            KeyStoreFullError: The waiting list takes no more of this user.
        """
        ...

    def page(self, after: int = 0, *, username: str | None = None, limit: int = 64) -> tuple[WaitingEnvelope, ...]:
        """Return the next envelopes in the order in which they came, at most ``limit``.

        Args:
            after: The sequence after which to begin.
            username: Only those that wait for this user's record.
            limit: How many at most.
        """
        ...

    def remove(self, sequence: int) -> None:
        """Remove an envelope. Unknown is no error."""
        ...

    def newest(self) -> int:
        """Return the highest sequence in the list, 0 if it is empty. No later one, in either list, gets a lower one."""
        ...

    def count_sealed_to(self, *fingerprints: bytes, up_to: int, since: int = 0) -> int:
        """Return how many are sealed to one of these own keys.

        Args:
            fingerprints: The keys; empty for what is sealed to none that was known (``sealed_to`` empty).
            up_to: The highest sequence with which one may first have come (``WaitingEnvelope.arrival``).
            since: The earliest time of acceptance and receipt.
        """
        ...

    def dropped(self) -> int:
        """Return how many envelopes ever left this list to make room."""
        ...


class OutboxPart(Protocol):
    """Messages on their way out: so that a retry, even after a crash, keeps id, counter and content."""

    def add(self, message: OutgoingMessage) -> None:
        """Keep a message until it is stored by delivery. The same again is no error.

        Raises:
            KeyStoreConflictError: That id is another message's.
            KeyStoreFullError: The outbox is full.
        """
        ...

    def find(self, message_id: bytes) -> OutgoingMessage | None:
        """Return a message on its way."""
        ...

    def page(self, *, after: bytes = b"", limit: int = 64) -> tuple[OutgoingMessage, ...]:
        """Return messages on their way, ordered by id (UUIDv7: by time).

        Args:
            after: The message id after which to begin.
            limit: How many at most.
        """
        ...

    def to(self, recipient: str, *, after: int = 0, limit: int = 64) -> tuple[OutgoingMessage, ...]:
        """Return messages on their way to one user, in the order in which they go out: by counter.

        Args:
            recipient: The user.
            after: The counter after which to begin.
            limit: How many at most.
        """
        ...

    def recipients(self) -> tuple[str, ...]:
        """Return the users to whom messages are on their way, sorted; no more than the outbox has messages."""
        ...

    def remove(self, message_id: bytes) -> None:
        """Forget a message: delivery has stored it, or it was given up. Unknown is no error."""
        ...


class TransferPart(Protocol):
    """Files on their way out: how far each is, so that it goes on after a break, a crash and a restart.

    The bytes stay in the file. A part that is on its way is in the outbox, as a reference to them.
    """

    def add(self, transfer: Transfer) -> None:
        """Keep a transfer that begins.

        Raises:
            KeyStoreConflictError: There is one with this id.
            KeyStoreFullError: There are too many.
        """
        ...

    def find(self, file_id: bytes) -> Transfer | None:
        """Return a transfer."""
        ...

    def all(self) -> tuple[Transfer, ...]:
        """Return all transfers, the oldest first; their number is bounded."""
        ...

    def begin_part(self, file_id: bytes, index: int) -> bool:
        """Note that a part is begun, in the transaction that keeps it in the outbox.

        It counts as begun once all before are: what was taken back, or never begun, stays the next one.

        Returns:
            Whether there is such a transfer (still).
        """
        ...

    def take_back_part(self, file_id: bytes, index: int) -> None:
        """Note that a part, and with it all that follow, has to be begun again. Unknown is no error."""
        ...

    def note_time(self, file_id: bytes, modify_time_ns: int) -> None:
        """Note another time of modification of a file whose bytes are the same. Unknown is no error."""
        ...

    def remove(self, file_id: bytes) -> None:
        """Forget a transfer: the file is sent, or given up. Unknown is no error."""
        ...


class FilePart(Protocol):
    """Files that arrive in parts; one part in memory at a time."""

    def add_part(self, file: StoredFile, index: int, data: bytes, now: int) -> StoredFile:
        """Keep one part, and return the file as it now is. The same part again is no error.

        When incomplete files take too much, the stalest of the sender who takes most make room (see ``dropped``).

        Raises:
            KeyStoreConflictError: The part contradicts earlier ones (other name, size, count, SHA-256 or
                bytes), or its index is not below the count.
            KeyStoreFullError: The file is larger than incomplete files may be, or takes most itself.
        """
        ...

    def dropped(self) -> int:
        """Return how many incomplete files were ever dropped to make room."""
        ...

    def find(self, sender: Address, file_id: bytes) -> StoredFile | None:
        """Return what is known of a file."""
        ...

    def read(self, sender: Address, file_id: bytes) -> Iterator[bytes]:
        """Yield the parts of a file in order, one in memory at a time; stop at the first that is missing."""
        ...

    def remove(self, sender: Address, file_id: bytes) -> None:
        """Erase a file and its parts. Unknown is no error."""
        ...


class KeyStore(Protocol):
    """Everything that the client keeps on this device."""

    @property
    def profile(self) -> ProfilePart:
        """Who this installation is."""
        ...

    @property
    def key_pairs(self) -> KeyPairPart:
        """The own key pairs."""
        ...

    @property
    def records(self) -> RecordPart:
        """What is known of users."""
        ...

    @property
    def sessions(self) -> SessionPart:
        """Session keys and statements."""
        ...

    @property
    def counters(self) -> CounterPart:
        """Counters and replay marks."""
        ...

    @property
    def inbox(self) -> InboxPart:
        """Opened messages."""
        ...

    @property
    def attempts(self) -> AttemptPart:
        """Attempts to take in what came again and again."""
        ...

    @property
    def waiting(self) -> EnvelopePart:
        """Envelopes that cannot be opened yet."""
        ...

    @property
    def set_aside(self) -> EnvelopePart:
        """Envelopes that will never be opened, with the reason; retriable by hand."""
        ...

    @property
    def outbox(self) -> OutboxPart:
        """Messages on their way out."""
        ...

    @property
    def transfers(self) -> TransferPart:
        """Files on their way out."""
        ...

    @property
    def files(self) -> FilePart:
        """Files that arrive in parts."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Open a block that is written whole when it ends, or not at all when an exception leaves it.

        A block within a block is a part of the outer one that can fail alone: if its exception is caught
        outside it, only the inner one is undone.
        """
        ...

    def prune(self, before: int) -> None:
        """Erase what is older than the age limit.

        Sessions by create_time, replay marks by receipt, handled messages by accept_time, closed keys and
        incomplete files by when they were noted, attempts by the last one. Counters are never forgotten.

        Args:
            before: The time before which things are too old.
        """
        ...

    def change_unlock(self, unlock: Unlock) -> None:
        """Seal the data key anew; the earlier passphrase, key file or variable no longer unlocks."""
        ...

    def snapshot(self, progress: Callable[[int, int], None] | None = None) -> Snapshot:
        """Copy the whole store, as it is now, into a file of its own, without what unlocks it; close the copy.

        Args:
            progress: Called with the pages done and the pages in all.
        """
        ...

    def close(self) -> None:
        """Close the store, drop its keys, let other processes use the profile. Closing again is no error."""
        ...
