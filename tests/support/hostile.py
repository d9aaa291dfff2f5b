"""Those who attack: a server on the way that alters what it hands out, and a peer who seals what he likes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import delivery_service_pb2 as delivery_pb
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import KeypostError
from keypost.protocol.encoding import sha256
from keypost.protocol.extension import DeviceKey, Extension, Session, SignedExtension
from keypost.protocol.identifiers import Address, conversation_of
from keypost.protocol.negotiation import step_5_encrypt_session_key
from keypost.protocol.suites import STRONG, Suite
from support.talk import Offer, Talk, message_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair
    from support.people import Person
    from support.simulation import Services

    Change = Callable[[pb.Envelope], object]


def change_header(**fields: Any) -> Change:
    def change(envelope: pb.Envelope) -> None:
        header = pb.Header.FromString(envelope.header)
        for name, value in fields.items():
            setattr(header, name, value)
        envelope.header = header.SerializeToString(deterministic=True)

    return change


def change_extension(**fields: Any) -> Change:
    def change(envelope: pb.Envelope) -> None:
        extension = pb.Extension.FromString(envelope.key_extension.extension)
        for name, value in fields.items():
            setattr(extension, name, value)
        envelope.key_extension.extension = extension.SerializeToString(deterministic=True)

    return change


def flip(data: bytes, at: int = -1) -> bytes:
    """Return the bytes with one bit of one of them changed."""
    changed = bytearray(data)
    changed[at] ^= 1 << (at % 8)
    return bytes(changed)


def tampering(*changes: Change) -> Callable[[delivery_pb.Delivery], delivery_pb.Delivery]:
    """Return what ``Services.deliver`` can be: each envelope is changed before it is handed out."""

    def deliver(delivery: delivery_pb.Delivery) -> delivery_pb.Delivery:
        changed = delivery_pb.Delivery()
        changed.CopyFrom(delivery)
        changed.envelope = altered(delivery.envelope, *changes)
        return changed

    return deliver


def altered(raw: bytes, *changes: Change) -> bytes:
    """Return a serialised envelope with changes."""
    envelope = pb.Envelope.FromString(raw)
    for change in changes:
        change(envelope)
    return envelope.SerializeToString()


def claiming_revision(raw: bytes, revision: int) -> bytes:
    """Return a serialised envelope that relies on a revision of its sender that never was."""
    return altered(raw, change_header(sender_revision=revision), change_extension(sender_revision=revision))


@dataclass
class Peer:
    """A device whose envelopes are put into mailboxes as it makes them: no client of ours checks them.

    Attributes:
        services: Where the mailboxes are.
        pair: Its key pair, on record or not.
        counter: The counter of its last message.
    """

    services: Services
    pair: DeviceKeyPair
    counter: int = 0

    @classmethod
    def enroll(cls, services: Services, username: str, suite: Suite = STRONG) -> Peer:
        return cls(services, services.realm.enroll(username, suite))

    @property
    def talk(self) -> Talk:
        return Talk(self.services.realm, self.pair)

    def offer(
        self,
        to: str,
        key: bytes | None = None,
        *,
        create_time: int | None = None,
        creator: DeviceKey | None = None,
        recipients: tuple[Key, ...] | None = None,
        realm: str | None = None,
        suite: Suite | None = None,
        **claims: Any,
    ) -> Offer:
        """Return a new session with a signed statement about it.

        Args:
            to: Whom it is for.
            key: The session key.
            create_time: When it was created.
            creator: Who created it.
            recipients: The keys to seal to; the good keys of the user by default.
            realm: The realm of the session.
            suite: The suite of the session; that of the own key by default.
            claims: Fields of the statement to be otherwise than they are, before it is signed.
        """
        talk, suite = self.talk, suite or self.pair.suite
        me, now = self.pair.address.username, talk.now
        session = Session.create(
            realm or talk.realm.realm,
            conversation_of(me, to),
            suite,
            creator or DeviceKey.of(self.pair),
            create_time or now,
            key or os.urandom(suite.session_key_bytes),
        )
        record = talk.record(to)
        keys = recipients or tuple(sorted(record.good_keys(now), key=lambda good: good.address.device_id))
        extension = Extension(
            realm=session.realm,
            suite=suite,
            key_id=session.key_id,
            creator=session.creator,
            session_create_time=session.create_time,
            signer=DeviceKey.of(self.pair),
            sign_time=now,
            recipient_username=to,
            sender_revision=talk.record(me).revision,
            recipient_revision=record.revision,
            recipient_devices=tuple(DeviceKey.of(recipient) for recipient in keys),
        )
        return Offer(
            session, self.sign(session, **{**vars(extension), **claims}), step_5_encrypt_session_key(session.key, keys)
        )

    def sign(self, session: Session, **fields: Any) -> SignedExtension:
        """Return a signed statement with these fields about a session."""
        extension = Extension(**fields)
        statement = extension.to_bytes()
        signature = self.pair.suite.sign_extension(self.pair.private_key, statement, sha256(session.key))
        return SignedExtension(extension, statement, signature)

    def write(self, offer: Offer, content: pb.Content, **header: Any) -> bytes:
        """Return the next message as a serialised envelope; ``header`` has fields to be otherwise."""
        self.counter += 1
        fields = {"message_id": message_id(self.counter), "counter": self.counter, **header}
        return self.talk.write(offer, content, **fields).SerializeToString()

    async def put(
        self, mailbox: Address, offer: Offer, content: pb.Content, *, accept_time: int | None = None, **header: Any
    ) -> bytes:
        """Put the next message into a mailbox, and return the serialised envelope."""
        raw = self.write(offer, content, **header)
        await self.services.put(mailbox, raw, accept_time)
        return raw


def resealed(original: Offer, to: DeviceKeyPair, key: Key) -> Offer:
    """Return Alice's session key and signature as Bob would re-seal them to Carol.

    Args:
        original: What Alice offered to Bob.
        to: Carol's device.
        key: Its key on record.
    """
    session, signed = original.session, original.signed
    sender = signed.extension.signer.address.username
    renamed = Session.create(
        session.realm,
        conversation_of(sender, to.address.username),
        session.suite,
        session.creator,
        session.create_time,
        session.key,
    )
    extension = replace(
        signed.extension,
        key_id=renamed.key_id,
        recipient_username=to.address.username,
        recipient_devices=(DeviceKey.of(to),),
    )
    forged = SignedExtension(extension, extension.to_bytes(), signed.signature)
    return Offer(renamed, forged, step_5_encrypt_session_key(session.key, [key]))


async def opened(person: Person) -> list[str]:
    """Return the texts that are received until nothing more comes, or until something stops the mailbox up."""
    texts = []
    with suppress(KeypostError):
        async for message in person.client.receive(follow=False):
            texts.append(message.text)  # noqa: PERF401  # what came before it fails counts
    return texts


async def tighten(person: Person, **limits: Any) -> None:
    """Lower the limits of a person's key store, so that a test fills it quickly.

    Args:
        person: Whose.
        limits: ``part__attribute`` of the key store with its value.
    """

    def lower(store: Any) -> None:
        for name, value in limits.items():
            part, _, attribute = name.partition("__")
            setattr(getattr(store, part), f"_{attribute}", value)

    await person.client._parts.context.store.run(lower)
