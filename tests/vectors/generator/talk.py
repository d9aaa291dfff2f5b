"""Two people who talk, so that envelopes can be made: right ones, and ones with a single thing wrong."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol.encoding import sha256
from keypost.protocol.envelope import Header, associated_data
from keypost.protocol.extension import DeviceKey, Extension, Session
from keypost.protocol.identifiers import conversation_of
from keypost.protocol.negotiation import step_5_encrypt_session_key
from keypost.protocol.rsa import public_key_der
from support.clock import START
from support.keys import pooled_key
from support.realm import REALM, SimulatedRealm
from vectors.generator.hashes import USED_KEYS, key_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.protocol.suites import Suite

CREATED, SIGNED, SENT, ACCEPTED, NOW = (START + 1_000 * count for count in range(5))
NONCE = bytes(range(12))
MESSAGE_ID = uuid.UUID("019a0000-0000-7000-8000-000000000001").bytes
HELLO = pb.Content(message=pb.Message(media_type="text/plain; charset=utf-8", body=b"hello"))


def name_of(fingerprint: bytes) -> str:
    """Return the name in ``keys.json`` of the key with this fingerprint."""
    for suite, count in USED_KEYS.items():
        for index in range(count):
            if sha256(public_key_der(pooled_key(suite, index))) == fingerprint:
                return key_name(suite, index)
    raise LookupError("keys.json does not have this key")


@dataclass
class Talk:
    """Alice, Bob and Carol in one realm, in one suite, unless Bob has another."""

    suite: Suite
    realm: SimulatedRealm = field(default_factory=SimulatedRealm)
    bobs_suite: Suite | None = None

    def __post_init__(self) -> None:
        self.alice = self.realm.enroll("alice", self.suite)
        self.bob = self.realm.enroll("bob", self.bobs_suite or self.suite)
        self.carol = self.realm.enroll("carol", self.suite)

    def keys(self, username: str) -> tuple[Key, ...]:
        """Return the keys of a user to seal to, ordered by device."""
        keys = self.realm.key_record(username).good_keys(START)
        return tuple(sorted(keys, key=lambda key: key.address.device_id))

    def session(self, creator: DeviceKeyPair, peer: str, key: bytes | None = None) -> Session:
        """Return a session that ``creator`` made with ``peer``."""
        conversation = conversation_of(creator.address.username, peer)
        key = bytes(range(self.suite.session_key_bytes)) if key is None else key
        return Session.create(REALM, conversation, self.suite, DeviceKey.of(creator), CREATED, key)


@dataclass
class Draft:
    """An envelope before it is made.

    Attributes:
        in_header: Fields of the header that are to differ from what they should be.
        in_extension: The same of the extension, which is signed as it then is.
        recipients: The keys to seal to; the recipient's, unless given.
        content: The plaintext before padding.
        signature: Makes the signature, if not the sender in the right way.
        edit: Changes the envelope after it was made.
    """

    talk: Talk
    session: Session
    sender: DeviceKeyPair
    recipient: str
    recipients: Sequence[Key] | None = None
    in_header: dict[str, Any] = field(default_factory=dict)
    in_extension: dict[str, Any] = field(default_factory=dict)
    content: bytes = HELLO.SerializeToString()
    sealed: bytes | None = None
    signature: Callable[[bytes], bytes] | None = None
    edit: Callable[[pb.Envelope], object] | None = None

    def keys(self) -> Sequence[Key]:
        """Return the keys to seal to."""
        if self.recipients is not None:
            return self.recipients
        return [key for key in self.talk.keys(self.recipient) if key.address != self.sender.address]

    def extension(self) -> Extension:
        """Return the extension statement."""
        session = self.session
        extension = Extension(
            realm=REALM,
            suite=session.suite,
            key_id=session.key_id,
            creator=session.creator,
            session_create_time=session.create_time,
            signer=DeviceKey.of(self.sender),
            sign_time=SIGNED,
            recipient_username=self.recipient,
            sender_revision=self.talk.realm.user(self.sender.address.username).revision,
            recipient_revision=self.talk.realm.user(self.recipient).revision,
            recipient_devices=tuple(DeviceKey.of(key) for key in self.keys()),
        )
        return replace(extension, **self.in_extension)

    def header(self, extension: Extension) -> Header:
        """Return the header that goes with the extension."""
        header = Header(
            realm=extension.realm,
            message_id=MESSAGE_ID,
            sender=extension.signer.address,
            recipient_username=extension.recipient_username,
            key_id=extension.key_id,
            counter=1,
            send_time=SENT,
            sender_revision=extension.sender_revision,
            recipient_revision=extension.recipient_revision,
        )
        return replace(header, **self.in_header)

    def envelope(self) -> pb.Envelope:
        """Make the envelope."""
        extension = self.extension()
        statement = extension.to_bytes()
        header = self.header(extension).to_bytes()
        suite, sender = self.session.suite, DeviceKey.of(self.sender)
        key = self.session.message_key(sender)
        made = pb.Envelope(
            header=header,
            key_extension=pb.KeyExtension(
                extension=statement,
                signature=self.sign(statement),
                sealed_keys=step_5_encrypt_session_key(
                    self.session.key if self.sealed is None else self.sealed, self.keys()
                ),
            ),
            nonce=NONCE,
            ciphertext=suite.encrypt(key, NONCE, self.content, associated_data(header, statement)),
        )
        if self.edit:
            self.edit(made)
        return made

    def sign(self, statement: bytes) -> bytes:
        """Return the signature of the statement."""
        if self.signature:
            return self.signature(statement)
        return self.sender.suite.sign_extension(self.sender.private_key, statement, sha256(self.session.key))
