"""Opening one message (steps 8 to 14), in one transaction of the key store that keeps all of it or nothing."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from keypost.client.context import StepLog, as_keypost_error, short
from keypost.client.own_devices import is_sealed_to_own_devices
from keypost.client.records import RecordUnusableError
from keypost.client.restored import may_have_created
from keypost.client.storing import to_session, to_stored_session, to_stored_statement
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.keystore.errors import KeyStoreFullError, KeyStoreUnavailableError
from keypost.keystore.values import Evidence, InboxMessage, StoredFile, WaitingEnvelope
from keypost.protocol import negotiation as steps
from keypost.protocol.continuity import Pins
from keypost.protocol.envelope import check_copy
from keypost.protocol.errors import (
    CloneSuspectedError,
    NotForThisDeviceError,
    ProtocolError,
    SecondStatementError,
)
from keypost.protocol.sessions import check_same_session, check_statement
from keypost.protocol.validity import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost.client.identity import KeyRing
    from keypost.clock import Clock
    from keypost.delivery.v1 import envelope_pb2 as pb
    from keypost.keystore.port import KeyStore
    from keypost.protocol.envelope import SealedEnvelope
    from keypost.protocol.extension import Extension, Session, SignedExtension
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.steps import Step
    from keypost.protocol.suites import Suite


@dataclass(frozen=True)
class Opening:
    """An envelope with everything that opening it needs.

    Attributes:
        raw: The serialised envelope.
        accept_time: When delivery accepted it.
        receive_time: When this device received it.
        sequence: The sequence with which it first came to be kept; 0 if it comes just now.
        me: The own address.
        ring: The own key pairs.
        trust: The realm's trust.
        minimum_suite: Every key that takes part must reach it.
        now: Unix milliseconds.
        clock: The time, for the steps.
        sealed: The parsed envelope, checked to be for this device; None if it is not even that.
        sender_record: The record of the sender's user.
        own_record: The record of the own user.
        failure: Why it cannot be opened now, if that is known already.
    """

    raw: bytes = field(repr=False)
    accept_time: int
    receive_time: int
    sequence: int
    me: Address
    ring: KeyRing
    trust: RealmTrust
    minimum_suite: Suite
    now: int
    clock: Clock
    sealed: SealedEnvelope | None = None
    sender_record: KeyRecord | None = None
    own_record: KeyRecord | None = None
    failure: KeypostError | None = None


class Fate(Enum):
    """What became of an envelope."""

    KEPT = "kept"
    REPLAYED = "replayed"
    WAITS = "waits"
    SET_ASIDE = "set_aside"


@dataclass
class Outcome:
    """What became of an envelope, and what there is to tell of it.

    Attributes:
        fate: What became of it.
        steps: Steps 8 to 14, as they happened.
        error: Why it waits or was set aside.
        warnings: (reason, sentence) to be told.
        sender: The address of the sender, as far as the header can be read.
    """

    fate: Fate
    steps: list[Step] = field(default_factory=list)
    error: KeypostError | None = None
    warnings: list[tuple[str, str]] = field(default_factory=list)
    sender: str = ""


def settle(store: KeyStore, opening: Opening) -> Outcome:
    """Open an envelope and keep what is in it, or keep it raw: waiting or set aside. Call it within a transaction."""
    outcome = attempt(store, opening)
    if outcome.fate is Fate.WAITS:
        _let_wait(store, opening, outcome)
    if outcome.fate is Fate.SET_ASIDE:
        set_aside(store, opening, outcome)
    return outcome


def _let_wait(store: KeyStore, opening: Opening, outcome: Outcome) -> None:
    try:
        with _telling_what_gives_way(store, outcome):
            store.waiting.add(to_row(opening, outcome))
    except KeyStoreFullError:
        outcome.fate = Fate.SET_ASIDE


def set_aside(store: KeyStore, opening: Opening, outcome: Outcome) -> None:
    """Keep an envelope raw among those that will not be opened, and say so if others had to make room."""
    with _telling_what_gives_way(store, outcome):
        store.set_aside.add(to_row(opening, outcome))


@contextmanager
def _telling_what_gives_way(store: KeyStore, outcome: Outcome) -> Iterator[None]:
    waiting, set_aside = store.waiting.dropped(), store.set_aside.dropped()
    yield
    if moved := store.waiting.dropped() - waiting:
        sentence = f"too many messages wait: {moved} of the user with most of them were set aside"
        outcome.warnings.append(("WAITING_LIST_FULL", sentence))
    if dropped := store.set_aside.dropped() - set_aside:
        sentence = f"{dropped} of the oldest messages that were set aside are gone: too many are"
        outcome.warnings.append(("SET_ASIDE_DROPPED", sentence))


def attempt(store: KeyStore, opening: Opening) -> Outcome:
    """Open an envelope and keep what is in it; if that fails, write nothing and say what should become of it."""
    sealed, log = opening.sealed, StepLog(opening.me, opening.clock)
    outcome = Outcome(Fate.KEPT, sender="" if sealed is None else str(sealed.header.sender))
    if sealed is not None and store.counters.is_received(sealed.header.sender, sealed.header.message_id):
        outcome.fate = Fate.REPLAYED
        return outcome
    try:
        # What fails in here leaves nothing behind: no session, no mark, no counter.
        with store.transaction():
            _open_and_keep(store, opening, log, outcome)
    except KeyStoreUnavailableError:
        # The disk's failure, not the message's.
        raise
    except Exception as error:  # noqa: BLE001  # nothing in a message may block the mailbox
        known = as_keypost_error(error)
        outcome.fate = Fate.WAITS if _is_matter_of_time(known) else Fate.SET_ASIDE
        outcome.error, outcome.warnings = known, []
    else:
        outcome.steps = log.steps
    return outcome


def _is_matter_of_time(error: KeypostError) -> bool:
    if isinstance(error, ProtocolError):
        return error.not_yet
    # What the store refuses is final; a service that could not be asked may answer later.
    return isinstance(error, RefusedError | UnreachableError)


def to_row(opening: Opening, outcome: Outcome) -> WaitingEnvelope:
    """Return an envelope as it is kept while it waits, or set aside."""
    return WaitingEnvelope(
        envelope=opening.raw,
        accept_time=opening.accept_time,
        receive_time=opening.receive_time,
        reason="" if outcome.error is None else outcome.error.reason,
        username="" if opening.sealed is None else opening.sealed.header.sender.username,
        sealed_to=_sealed_to(opening),
        came=opening.sequence,
    )


def _sealed_to(opening: Opening) -> bytes:
    if opening.sealed is None:
        return b""
    names = (key.fingerprint for key in opening.sealed.sealed_keys)
    return next((name for name in names if opening.ring.find(name) is not None), b"")


def _open_and_keep(store: KeyStore, opening: Opening, log: StepLog, outcome: Outcome) -> None:
    if opening.failure is not None:
        raise opening.failure
    sealed, record = opening.sealed, opening.sender_record
    if sealed is None or record is None:
        raise AssertionError
    pins = _pins(store, record)
    _check_sender(store, opening, sealed, record, pins, log)
    session = _session(store, opening, sealed, record, log)
    content = steps.step_14_decrypt_message(sealed, session)
    kind = content.WhichOneof("kind") or ""
    log.add(14, content=kind, ciphertext_bytes=len(sealed.ciphertext), counter=sealed.header.counter)
    _keep_session(store, sealed, session)
    verified = pins.is_verified(sealed.signed_extension.extension.signer.fingerprint)
    _keep_content(store, opening, sealed, content, outcome, verified=verified)
    _compare_devices(store, opening, sealed, outcome)


def _check_sender(
    store: KeyStore, opening: Opening, sealed: SealedEnvelope, record: KeyRecord, pins: Pins, log: StepLog
) -> None:
    extension = sealed.signed_extension.extension
    log.add(8, username=record.username, revision=record.revision, keys=len(record.keys))
    key = steps.step_9_check_sender_key(
        record,
        pins,
        extension,
        accept_time=opening.accept_time,
        now=opening.now,
        policy=Policy(opening.trust.constants, opening.minimum_suite),
        retired=_is_closed(store, extension.signer.fingerprint, opening.sequence),
    )
    log.add(9, address=str(key.address), fingerprint=short(key.fingerprint), suite=key.suite.name)


def _pins(store: KeyStore, record: KeyRecord) -> Pins:
    """Return what is remembered of the sender's keys; looking the record up has pinned them."""
    stored = store.records.pins(record.username)
    if stored is None:
        raise RecordUnusableError(f"nothing is pinned of {record.username}", username=record.username)
    return Pins.from_bytes(stored)


def _is_closed(store: KeyStore, fingerprint: bytes, sequence: int) -> bool:
    """Return whether a key was closed before this envelope first came, whichever list it was kept in since."""
    mark = store.records.closing_mark(fingerprint)
    return mark is not None and not 0 < sequence <= mark


def _session(store: KeyStore, opening: Opening, sealed: SealedEnvelope, record: KeyRecord, log: StepLog) -> Session:
    """Return the session: the kept one if the sender's statement about it is kept too, else by steps 10 to 13."""
    signed = sealed.signed_extension
    extension = signed.extension
    kept = store.sessions.find(extension.conversation, extension.key_id)
    known = store.sessions.statement(extension.conversation, extension.key_id, extension.signer.address)
    if check_statement(known.extension if known else None, signed.statement) and kept is not None:
        return to_session(kept, opening.trust.realm)
    if kept is None:
        _check_not_claimed(store, opening, extension)
    pair = next((p for p in map(opening.ring.find, (k.fingerprint for k in sealed.sealed_keys)) if p), None)
    if pair is None:
        raise NotForThisDeviceError("the message has no session key sealed to this device's key")
    sealed_key = steps.step_10_extract_sealed_key(sealed, pair)
    log.add(10, sealed_key_bytes=len(sealed_key), signature_bytes=len(signed.signature))
    session_key = steps.step_11_decrypt_session_key(sealed_key, pair, extension)
    log.add(11, session_key_bits=len(session_key) * 8, fingerprint=short(pair.fingerprint))
    session_key_hash, session = steps.step_12_hash_session_key(session_key, extension)
    log.add(12, hash_bytes=len(session_key_hash), key_id=short(session.key_id))
    steps.step_13_verify_signature(record.get(extension.signer.fingerprint), signed, session_key_hash)
    log.add(13, fingerprint=short(extension.signer.fingerprint), signature_bytes=len(signed.signature))
    if kept is not None:
        check_same_session(to_session(kept, opening.trust.realm), session)
    return session


def _check_not_claimed(store: KeyStore, opening: Opening, extension: Extension) -> None:
    """Raise if a session that this device does not have claims to be its own, and no other copy can have made it."""
    creator = extension.creator
    is_claimed = creator.address == opening.me or opening.ring.find(creator.fingerprint) is not None
    if is_claimed and not may_have_created(store, extension.session_create_time):
        raise SecondStatementError("the message names this device as the creator of a session that it never made")


def _keep_session(store: KeyStore, sealed: SealedEnvelope, session: Session) -> None:
    store.sessions.add(to_stored_session(session))
    statement = to_stored_statement(sealed.signed_extension)
    store.sessions.add_statement(session.conversation, session.key_id, statement)


def _keep_content(
    store: KeyStore,
    opening: Opening,
    sealed: SealedEnvelope,
    content: pb.Content,
    outcome: Outcome,
    *,
    verified: bool,
) -> None:
    header = sealed.header
    message_id = header.message_id
    if content.HasField("sent_copy"):
        check_copy(content.sent_copy, opening.me.username)
        # Under the id of what it is a copy of: that comes once, however often it is copied.
        message_id = content.sent_copy.message_id
    mark = store.counters.mark_received(
        header.sender, header.conversation, header.counter, header.message_id, opening.now
    )
    if mark.clone_of is not None:
        outcome.warnings.append(
            (
                CloneSuspectedError.reason,
                f"{header.sender} used counter {header.counter} for two messages: this device may exist twice",
            )
        )
    missed = mark.missed
    if content.HasField("file_part"):
        if not _keep_part(store, header.sender, content.file_part, opening.now, outcome):
            return
        # Parts may overtake each other; what counts is what is missing once all are here.
        missed = store.counters.missed(header.sender, header.conversation)
        content.file_part.data = b""
    elif content.HasField("sent_copy"):
        if _is_there(store, header.sender, message_id):
            return
    elif not content.HasField("message"):
        return
    store.inbox.add(
        InboxMessage(
            message_id=message_id,
            sender=header.sender,
            conversation=header.conversation,
            key_id=header.key_id,
            counter=header.counter,
            send_time=header.send_time,
            accept_time=opening.accept_time,
            missed=missed,
            content=content.SerializeToString(),
            verified=verified,
        )
    )


def _is_there(store: KeyStore, sender: Address, message_id: bytes) -> bool:
    """Return whether a copy of this message of another own device came before."""
    return store.inbox.find(sender, message_id) is not None


def _keep_part(store: KeyStore, sender: Address, part: pb.FilePart, now: int, outcome: Outcome) -> bool:
    """Keep a part of a file; return whether by this very part the file is whole, and what it says it is."""
    before, dropped = store.files.find(sender, part.file_id), store.files.dropped()
    file = store.files.add_part(
        StoredFile(sender, part.file_id, part.name, part.media_type, part.count, part.size, part.sha256),
        part.index,
        part.data,
        now,
    )
    if dropped := store.files.dropped() - dropped:
        sentence = f"{dropped} incomplete file(s) are gone to make room: ask their senders to send them again"
        outcome.warnings.append(("FILE_DROPPED", sentence))
    if not file.complete or (before is not None and before.complete):
        return False
    if _is_as_announced(store, sender, part):
        return True
    # Its bytes go, or whoever announced it would have all of them hashed again for each last part that follows.
    store.files.remove(sender, part.file_id)
    sentence = "a file that arrived is not the one that its sender announced: it is gone, ask for it again"
    outcome.warnings.append(("FILE_REFUSED", sentence))
    return False


def _is_as_announced(store: KeyStore, sender: Address, part: pb.FilePart) -> bool:
    digest, size = hashlib.sha256(), 0
    for data in store.files.read(sender, part.file_id):
        digest.update(data)
        size += len(data)
    return (digest.digest(), size) == (part.sha256, part.size)


def _compare_devices(store: KeyStore, opening: Opening, sealed: SealedEnvelope, outcome: Outcome) -> None:
    """Compare the devices that the sender sealed to with the own record, and keep a difference as evidence."""
    own, signed = opening.own_record, sealed.signed_extension
    if own is None:
        raise AssertionError
    if is_sealed_to_own_devices(own, signed.extension):
        return
    sentence = (
        f"{signed.extension.signer.address} does not seal to the devices that are in this user's own record: the "
        "directory may show others a device that is not this user's, or hide one"
    )
    outcome.warnings.append(("DEVICES_DIFFER", sentence))
    store.records.add_evidence(_evidence(own, signed, opening.now))


def _evidence(own: KeyRecord, signed: SignedExtension, now: int) -> Evidence:
    # Filed under the sender, since what is kept of each user is bounded: one who lies takes no room from an honest one.
    sender = signed.extension.signer.address.username
    statement = signed.to_message(()).SerializeToString()
    return Evidence(sender, "DEVICES_DIFFER", own.key_info.SerializeToString(), statement, now)
