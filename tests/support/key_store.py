"""Values to fill a local key store with, and a store that can be closed and opened again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from keypost.keystore import (
    Argon2Cost,
    KeyStore,
    Limits,
    Passphrase,
    create_memory_store,
    create_store,
    open_store,
)
from keypost.keystore.values import (
    Conversation,
    InboxMessage,
    OutgoingMessage,
    StoredFile,
    StoredSession,
    Transfer,
    WaitingEnvelope,
)
from keypost.protocol.identifiers import Address

if TYPE_CHECKING:
    from pathlib import Path

ALICE = Address("alice", "a" * 16)
ALICE_TABLET = Address("alice", "c" * 16)
BOB = Address("bob", "b" * 16)
BOTH: Conversation = ("alice", "bob")
NOW = 1_700_000_000_000
CHEAP = Argon2Cost(memory=8, iterations=1, lanes=1)
"""A cost that protects nothing, so that a test takes no time."""
UNLOCK = Passphrase("correct horse battery staple", CHEAP)
REALM = "example.org"
BUNDLE = b"the bundle, serialised"

KEY_ID = bytes(range(32))
SESSION = StoredSession(
    conversation=BOTH,
    key_id=KEY_ID,
    suite=2,
    creator=BOB,
    creator_fingerprint=b"\xbb" * 32,
    create_time=NOW,
    session_key=b"session key, 32 bytes, as secret",
)
MESSAGE = InboxMessage(
    message_id=b"\x01" * 16,
    sender=BOB,
    conversation=BOTH,
    key_id=KEY_ID,
    counter=1,
    send_time=NOW,
    accept_time=NOW + 5,
    missed=0,
    content=b"a body that nobody else reads",
)
WAITING = WaitingEnvelope(
    envelope=b"an envelope as received",
    accept_time=NOW,
    receive_time=NOW + 7,
    reason="UNKNOWN_KEY",
    username="bob",
    sealed_to=b"\xaa" * 32,
)
OUTGOING = OutgoingMessage(
    message_id=b"\x02" * 16, recipient="bob", counter=1, create_time=NOW, content=b"a body on its way out"
)
FILE = StoredFile(
    sender=BOB,
    file_id=b"\x03" * 16,
    name="holiday.jpg",
    media_type="image/jpeg",
    count=3,
    size=12,
    sha256=b"\x04" * 32,
)

TRANSFER = Transfer(
    file_id=b"\x05" * 16,
    recipient="bob",
    path="/home/alice/b\udcfcrgschaft.pdf",
    modify_time_ns=NOW * 1_000_000 + 1,
    name="Bürgschaft.pdf",
    media_type="application/pdf",
    count=3,
    size=12,
    sha256=b"\x06" * 32,
    create_time=NOW,
)


def session(number: int) -> StoredSession:
    """Return a session of its own; a higher number is a later one."""
    return replace(
        SESSION, key_id=number.to_bytes(32, "big"), create_time=NOW + number, session_key=number.to_bytes(32, "little")
    )


def message(number: int) -> InboxMessage:
    """Return a message of its own."""
    return replace(MESSAGE, message_id=number.to_bytes(16, "big"), counter=number, content=b"body %d" % number)


def envelope(number: int, username: str = "bob") -> WaitingEnvelope:
    """Return an envelope of its own, of 100 bytes."""
    return replace(WAITING, envelope=b"%0100d" % number, username=username)


def unhandled(store: KeyStore) -> list[InboxMessage]:
    """Hand out whatever is not handled."""
    found: list[InboxMessage] = []
    while (row := store.inbox.next_unhandled(found[-1].sequence if found else 0)) is not None:
        found.append(row)
    return found


def memory_store(limits: Limits | None = None) -> KeyStore:
    """Return an empty store in memory."""
    return create_memory_store(UNLOCK, realm=REALM, bundle=BUNDLE, limits=limits)


@dataclass
class Reopening:
    """A store, and the way to close it and open it again (where it has a place on the disk)."""

    store: KeyStore
    folder: Path | None
    limits: Limits | None = None

    @classmethod
    def new(cls, folder: Path | None, limits: Limits | None = None) -> Reopening:
        """Create a store in a folder, or in memory."""
        if folder is None:
            return cls(memory_store(limits), None, limits)
        return cls(create_store(folder, UNLOCK, realm=REALM, bundle=BUNDLE, limits=limits), folder, limits)

    def again(self) -> KeyStore:
        """Return the store as a new process would find it."""
        if self.folder is not None:
            self.store.close()
            self.store = cast("KeyStore", open_store(self.folder, UNLOCK, limits=self.limits))
        return self.store
