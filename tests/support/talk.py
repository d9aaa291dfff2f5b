"""The fourteen steps between two devices, driven by the protocol core alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol import negotiation as n
from keypost.protocol.continuity import pin
from keypost.protocol.envelope import Header, SealedEnvelope, check_addressed, read_envelope
from keypost.protocol.extension import DeviceKey, Session, SignedExtension
from keypost.protocol.identifiers import conversation_of
from keypost.protocol.suites import WEAK
from keypost.protocol.validity import Policy

if TYPE_CHECKING:
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.realm import SimulatedRealm

NONCE = b"twelve bytes"


def message_id(number: int = 1) -> bytes:
    """Return a well-formed UUIDv7 that tells its number."""
    return number.to_bytes(6, "big") + b"\x70\x00\x80" + bytes(7)


def text(body: str) -> pb.Content:
    return pb.Content(message=pb.Message(media_type="text/plain", body=body.encode()))


@dataclass
class Offer:
    """What a sender holds after steps 2 to 6."""

    session: Session
    signed: SignedExtension
    sealed_keys: tuple[pb.SealedKey, ...]


@dataclass
class Talk:
    """A device that negotiates with others of one realm."""

    realm: SimulatedRealm
    pair: DeviceKeyPair
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        self.policy = Policy(self.realm.constants, WEAK)

    @property
    def now(self) -> int:
        return self.realm.clock()

    def record(self, username: str) -> KeyRecord:
        return n.step_2_obtain_recipient_key_info(
            self.realm.key_info(username), trust=self.realm.trust(), username=username, now=self.now, previous=None
        )

    def negotiate(self, to: str, key: bytes | None = None) -> Offer:
        """Steps 2 to 6 with a new session."""
        suite = self.pair.suite
        key = key or n.step_4_generate_session_key(suite, lambda size: hashlib.shake_128(to.encode()).digest(size))
        me = self.pair.address.username
        session = Session.create(
            self.realm.realm, conversation_of(me, to), suite, DeviceKey.of(self.pair), self.now, key
        )
        return self.offer(to, session)

    def offer(self, to: str, session: Session) -> Offer:
        """Steps 3, 5 and 6 for a session, the own or an adopted one."""
        record = self.record(to)
        recipients = n.step_3_check_recipient_keys(record, self.policy, self.now, exclude=self.pair.address)
        sealed_keys = n.step_5_encrypt_session_key(session.key, recipients)
        signed = n.step_6_sign_session_key(
            session,
            self.pair,
            recipients=recipients,
            sender_revision=self.record(self.pair.address.username).revision,
            recipient_revision=record.revision,
            sign_time=self.now,
        )
        return Offer(session, signed, sealed_keys)

    def header(self, offer: Offer, **changes: Any) -> Header:
        extension = offer.signed.extension
        fields: dict[str, Any] = {
            "realm": extension.realm,
            "message_id": message_id(),
            "sender": self.pair.address,
            "recipient_username": extension.recipient_username,
            "key_id": extension.key_id,
            "counter": 1,
            "send_time": self.now,
            "sender_revision": extension.sender_revision,
            "recipient_revision": extension.recipient_revision,
        }
        return Header(**{**fields, **changes})

    def write(self, offer: Offer, content: pb.Content, **changes: Any) -> pb.Envelope:
        """Step 7; ``changes`` overwrite fields of the header."""
        return n.step_7_attach_to_message(
            self.header(offer, **changes),
            content,
            session=offer.session,
            signed_extension=offer.signed,
            sealed_keys=offer.sealed_keys,
            nonce=NONCE,
        )

    def read(self, envelope: pb.Envelope) -> tuple[pb.Content, Session]:
        """Steps 8 to 14, with what is checked before them."""
        sealed = read_envelope(pb.Envelope.FromString(envelope.SerializeToString()))
        check_addressed(sealed, self.realm.realm, self.pair.address, {self.pair.fingerprint})
        return self.open(sealed)

    def open(self, sealed: SealedEnvelope) -> tuple[pb.Content, Session]:
        """Steps 8 to 14."""
        extension = sealed.signed_extension.extension
        sender = extension.signer.address.username
        record = n.step_8_obtain_sender_key_info(
            self.realm.key_info(sender), trust=self.realm.trust(), username=sender, now=self.now, previous=None
        )
        key = n.step_9_check_sender_key(
            record, pin(record, WEAK), extension, accept_time=self.now, now=self.now, policy=self.policy
        )
        sealed_key = n.step_10_extract_sealed_key(sealed, self.pair)
        session_key = n.step_11_decrypt_session_key(sealed_key, self.pair, extension)
        digest, session = n.step_12_hash_session_key(session_key, extension)
        n.step_13_verify_signature(key, sealed.signed_extension, digest)
        return n.step_14_decrypt_message(sealed, session), session
