"""Sealing messages (steps 3 to 7): choose the session or negotiate one, in one transaction of the key store."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from keypost.client.context import StepLog, short
from keypost.client.storing import (
    candidates,
    to_own_extension,
    to_sealed_keys,
    to_signed_extension,
    to_stored_session,
    to_stored_statement,
)
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError
from keypost.protocol import negotiation as steps
from keypost.protocol.encoding import parse
from keypost.protocol.envelope import MOST_ENVELOPE_BYTES, Header
from keypost.protocol.extension import DeviceKey, Session, SignedExtension
from keypost.protocol.identifiers import conversation_of
from keypost.protocol.rsa import counted
from keypost.protocol.sessions import Candidate, Situation, choose_session, next_create_time
from keypost.protocol.suites import NONCE_BYTES
from keypost.protocol.validity import Policy, check_can_act, check_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from keypost.clock import Clock
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import OutgoingMessage
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.steps import Step
    from keypost.protocol.suites import Suite


@dataclass(frozen=True)
class Sealing:
    """What sealing a message needs to know.

    Attributes:
        own: The own key pair.
        own_record: The own user's record.
        peer_record: The recipient's record.
        trust: The realm's trust.
        minimum_suite: Every key that takes part must reach it.
        now: Unix milliseconds.
        clock: The time, for the steps.
        random: Returns random bytes.
    """

    own: DeviceKeyPair
    own_record: KeyRecord
    peer_record: KeyRecord
    trust: RealmTrust
    minimum_suite: Suite
    now: int
    clock: Clock
    random: Callable[[int], bytes] = field(repr=False)

    @property
    def conversation(self) -> tuple[str, str]:
        """The two users."""
        return conversation_of(self.own_record.username, self.peer_record.username)


@dataclass(frozen=True)
class Sealed:
    """A sealed message, ready to be handed over.

    Attributes:
        envelope: What is handed over.
        size: Its bytes.
        signer: The fingerprint of the key that signed its extension.
        sender_revision: Of the own record that it is sealed for.
        recipient_revision: Of the recipient's.
        key_id: The session that it is sealed under.
        new_session: Whether the session was negotiated for it.
        rsa_operations: By kind.
        steps: Steps 3 to 6, as they happened; of messages that were sealed together, with the first.
    """

    envelope: pb.Envelope = field(repr=False)
    size: int
    signer: bytes
    sender_revision: int
    recipient_revision: int
    key_id: bytes
    new_session: bool
    rsa_operations: Mapping[str, int]
    steps: tuple[Step, ...]


class Sealer:
    """Seals messages of one conversation, one after the other, within one transaction of the key store.

    They go under one session as long as it may be sent under: keys are checked, the session is chosen and its extension
    is made once for all of them.

    Args:
        store: The key store, in a transaction.
        sealing: What sealing needs to know.

    Raises:
        ProtocolError: a key may not take part, or a record is no longer fresh.
    """

    def __init__(self, store: KeyStore, sealing: Sealing) -> None:
        self._store = store
        self._sealing = sealing
        self._log = StepLog(sealing.own.address, sealing.clock)
        self._recipients = _check_keys(sealing, self._log)
        self._offer: _Offer | None = None
        self._room = 0
        self._sealed = 0

    def seal(self, message: OutgoingMessage, *, new_session: bool = False) -> Sealed:
        """Seal a message.

        Args:
            message: The message.
            new_session: Negotiate even if a session could be used.

        Raises:
            InvalidArgumentError: the message is too large for an envelope.
        """
        with counted() as operations:
            offer, is_new = self._offer_for(new_session=new_session)
            envelope = steps.step_7_attach_to_message(
                _header(message, self._sealing, offer.session.key_id),
                parse(pb.Content, message.content, "Content"),
                session=offer.session,
                signed_extension=offer.signed,
                sealed_keys=offer.sealed_keys,
                nonce=self._sealing.random(NONCE_BYTES),
            )
        if (size := envelope.ByteSize()) > MOST_ENVELOPE_BYTES:
            raise InvalidArgumentError("the message is too large for one envelope: send it as a file", field="body")
        self._room -= 1
        self._sealed += 1
        shown, self._log.steps = tuple(self._log.steps), []
        return Sealed(
            envelope=envelope,
            size=size,
            signer=self._sealing.own.fingerprint,
            sender_revision=self._sealing.own_record.revision,
            recipient_revision=self._sealing.peer_record.revision,
            key_id=offer.session.key_id,
            new_session=is_new,
            rsa_operations=dict(operations.by_kind),
            steps=shown,
        )

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Forget what was sealed within, and the session negotiated for it, when the savepoint is undone."""
        before = self._offer, self._room, self._sealed, list(self._log.steps)
        try:
            yield
        except BaseException:
            self._offer, self._room, self._sealed, self._log.steps = before
            raise

    def finish(self) -> None:
        """Count what was sealed; call it before the transaction ends."""
        if self._offer is not None and self._sealed:
            session = self._offer.session
            self._store.sessions.count_messages(session.conversation, session.key_id, self._sealed)
        self._sealed = 0

    def _offer_for(self, *, new_session: bool) -> tuple[_Offer, bool]:
        if self._offer is not None and self._room and not new_session:
            return self._offer, False
        self.finish()
        offer, is_new, sent = _session(self._store, self._sealing, self._recipients, self._log, new_session=new_session)
        self._offer = offer
        self._room = self._sealing.trust.constants.rotation_messages - sent
        return offer, is_new


@dataclass(frozen=True)
class _Offer:
    """A session to send under, with the own key extension."""

    session: Session
    signed: SignedExtension
    sealed_keys: Sequence[pb.SealedKey]


def _check_keys(sealing: Sealing, log: StepLog) -> Sequence[Key]:
    policy = Policy(sealing.trust.constants, sealing.minimum_suite)
    sealing.own_record.check_fresh(sealing.now)
    own_key = sealing.own_record.get(sealing.own.fingerprint)
    check_can_act(own_key, sealing.own_record, sealing.now)
    check_suite(own_key, policy)
    own = sealing.own.address
    recipients = steps.step_3_check_recipient_keys(sealing.peer_record, policy, sealing.now, exclude=own)
    fingerprints = " ".join(short(key.fingerprint) for key in recipients)
    log.add(3, username=sealing.peer_record.username, devices=len(recipients), fingerprints=fingerprints)
    return recipients


def _session(
    store: KeyStore, sealing: Sealing, recipients: Sequence[Key], log: StepLog, *, new_session: bool
) -> tuple[_Offer, bool, int]:
    """Return the session to send under with the own key extension, whether it is new, and how much went under it."""
    situation = Situation(
        own_key=sealing.own,
        own_record=sealing.own_record,
        peer_record=sealing.peer_record,
        recipients=recipients,
        constants=sealing.trust.constants,
        now=sealing.now,
    )
    chosen = None
    if not new_session:
        known = candidates(store, sealing.conversation, sealing.trust.realm)
        chosen = choose_session((one for one in known if _may_answer_under(store, one, recipients)), situation)
    if chosen is None:
        session = _negotiate(store, sealing, log)
        return _make_offer(store, sealing, session, recipients, log), True, 0
    own = store.sessions.own_extension(sealing.conversation, chosen.session.key_id)
    if own is None:
        # Answering under the peer's session key: the own statement about it is signed once.
        return _make_offer(store, sealing, chosen.session, recipients, log), False, chosen.messages_sent
    signed = to_signed_extension(own.extension, own.signature)
    return _Offer(chosen.session, signed, to_sealed_keys(own)), False, chosen.messages_sent


def _may_answer_under(store: KeyStore, candidate: Candidate, recipients: Sequence[Key]) -> bool:
    """Return whether the own statement about a session, if there is one, names exactly whom to seal to now.

    A key may have expired since without a new revision; a second statement for the session would be refused.
    """
    own = store.sessions.own_extension(candidate.session.conversation, candidate.session.key_id)
    if own is None:
        return True
    named = to_signed_extension(own.extension, own.signature).extension.recipient_devices
    return set(named) == {DeviceKey.of(key) for key in recipients}


def _negotiate(store: KeyStore, sealing: Sealing, log: StepLog) -> Session:
    conversation = sealing.conversation
    session_key = steps.step_4_generate_session_key(sealing.own.suite, sealing.random)
    session = Session.create(
        sealing.trust.realm,
        conversation,
        sealing.own.suite,
        DeviceKey.of(sealing.own),
        next_create_time(sealing.now, store.sessions.highest_create_time(conversation)),
        session_key,
    )
    log.add(4, session_key_bits=len(session_key) * 8, key_id=short(session.key_id), suite=session.suite.name)
    store.sessions.add(to_stored_session(session))
    return session


def _make_offer(store: KeyStore, sealing: Sealing, session: Session, recipients: Sequence[Key], log: StepLog) -> _Offer:
    """Seal a session key to the recipient's devices and sign the own statement about it."""
    sealed_keys = steps.step_5_encrypt_session_key(session.key, recipients)
    sizes = " ".join(str(len(key.sealed_key)) for key in sealed_keys)
    log.add(5, sealed_keys=len(sealed_keys), sealed_key_bytes=sizes, key_id=short(session.key_id))
    signed = steps.step_6_sign_session_key(
        session,
        sealing.own,
        recipients=recipients,
        sender_revision=sealing.own_record.revision,
        recipient_revision=sealing.peer_record.revision,
        sign_time=sealing.now,
    )
    log.add(6, hash_bytes=32, signature_bytes=len(signed.signature), fingerprint=short(sealing.own.fingerprint))
    store.sessions.add_statement(session.conversation, session.key_id, to_stored_statement(signed))
    own = to_own_extension(signed, sealed_keys)
    store.sessions.set_own_extension(session.conversation, session.key_id, own)
    return _Offer(session, signed, sealed_keys)


def _header(message: OutgoingMessage, sealing: Sealing, key_id: bytes) -> Header:
    return Header(
        realm=sealing.trust.realm,
        message_id=message.message_id,
        sender=sealing.own.address,
        recipient_username=message.recipient,
        key_id=key_id,
        counter=message.counter,
        send_time=message.create_time,
        sender_revision=sealing.own_record.revision,
        recipient_revision=sealing.peer_record.revision,
    )


def new_message_id(now: int, random: Callable[[int], bytes]) -> UUID:
    """Return a UUIDv7 (RFC 9562): 48 bits of time, 74 random bits."""
    number = (now << 80) | int.from_bytes(random(10), "big")
    number = (number & ~(0xF << 76)) | (7 << 76)
    return UUID(int=(number & ~(0x3 << 62)) | (0x2 << 62))
