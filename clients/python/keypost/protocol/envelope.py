"""The envelope: header, content, and what is checked before anything is opened (docs/spec.md, "Messages")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol.encoding import MESSAGE, check_number, named, pae, parse, sha256
from keypost.protocol.errors import (
    ContentRefusedError,
    HeaderMismatchError,
    MalformedStatementError,
    NotForThisDeviceError,
    OwnMessageError,
)
from keypost.protocol.extension import SignedExtension, address_message, read_address, read_extension
from keypost.protocol.identifiers import Address, check_realm, check_username, conversation_of
from keypost.protocol.suites import NONCE_BYTES

if TYPE_CHECKING:
    from collections.abc import Container

MOST_ENVELOPE_BYTES = 256 * 1024
MESSAGE_ID_BYTES = 16
KEY_ID_BYTES = 32
MOST_HEADER_BYTES = 4 * 1024
UUID_VERSION = 7
UUID_VARIANT = 2


@dataclass(frozen=True)
class Header:
    """What everyone on the way may read (see ``Header`` in the protos)."""

    realm: str
    message_id: bytes
    sender: Address
    recipient_username: str
    key_id: bytes
    counter: int
    send_time: int
    sender_revision: int
    recipient_revision: int

    @property
    def conversation(self) -> tuple[str, str]:
        """The two users."""
        return conversation_of(self.sender.username, self.recipient_username)

    def to_bytes(self) -> bytes:
        """Return the serialised header."""
        fields = {**vars(self), "sender": address_message(self.sender)}
        return pb.Header(**fields).SerializeToString(deterministic=True)


def read_header(header: bytes) -> Header:
    """Parse a header.

    Raises:
        MalformedStatementError: it does not parse, or a field has a value that it never has.
    """
    if len(header) > MOST_HEADER_BYTES:
        raise MalformedStatementError(f"a header has at most {MOST_HEADER_BYTES} bytes")
    message = parse(pb.Header, header, "Header")
    parsed = Header(
        realm=message.realm,
        message_id=message.message_id,
        sender=named("sender", read_address, message.sender),
        recipient_username=message.recipient_username,
        key_id=message.key_id,
        counter=message.counter,
        send_time=message.send_time,
        sender_revision=message.sender_revision,
        recipient_revision=message.recipient_revision,
    )
    _check_header(parsed)
    return parsed


def _check_header(header: Header) -> None:
    named("realm", check_realm, header.realm)
    named("recipient_username", check_username, header.recipient_username)
    named("message_id", _check_message_id, header.message_id)
    if len(header.key_id) != KEY_ID_BYTES:
        raise MalformedStatementError("header: key_id has 32 bytes", field="key_id")
    for name in ("counter", "send_time", "sender_revision", "recipient_revision"):
        named(name, check_number, getattr(header, name))


def is_message_id(message_id: bytes) -> bool:
    """Return whether this is a UUIDv7: 16 bytes."""
    return (
        len(message_id) == MESSAGE_ID_BYTES
        and message_id[6] >> 4 == UUID_VERSION
        and message_id[8] >> 6 == UUID_VARIANT
    )


def _check_message_id(message_id: bytes) -> None:
    if not is_message_id(message_id):
        raise MalformedStatementError("header: message_id is a UUIDv7 of 16 bytes")


@dataclass(frozen=True)
class SealedEnvelope:
    """A parsed envelope; nothing in it is verified yet."""

    header: Header
    header_bytes: bytes = field(repr=False)
    signed_extension: SignedExtension
    sealed_keys: tuple[pb.SealedKey, ...] = field(repr=False)
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    @property
    def associated_data(self) -> bytes:
        """What the encryption authenticates beside the content."""
        return associated_data(self.header_bytes, self.signed_extension.statement)


def associated_data(header: bytes, extension: bytes) -> bytes:
    """Return PAE(label, header, SHA-256 of the extension statement)."""
    return pae(MESSAGE, header, sha256(extension))


def read_envelope(envelope: pb.Envelope) -> SealedEnvelope:
    """Parse an envelope and check that header and extension agree.

    Raises:
        MalformedStatementError, SuiteUnknownError: a part does not parse or has a value that it never has.
        HeaderMismatchError: header and extension disagree.
    """
    if len(envelope.nonce) != NONCE_BYTES or not envelope.ciphertext:
        raise MalformedStatementError(f"an envelope has a nonce of {NONCE_BYTES} bytes and a ciphertext")
    sealed = SealedEnvelope(
        header=read_header(envelope.header),
        header_bytes=envelope.header,
        signed_extension=read_extension(envelope.key_extension),
        sealed_keys=tuple(envelope.key_extension.sealed_keys),
        nonce=envelope.nonce,
        ciphertext=envelope.ciphertext,
    )
    check_agreement(sealed.header, sealed.signed_extension)
    return sealed


def check_agreement(header: Header, signed: SignedExtension) -> None:
    """Raise :class:`HeaderMismatchError` unless header and extension name the same message."""
    extension = signed.extension
    pairs = {
        "realm": (header.realm, extension.realm),
        "sender": (header.sender, extension.signer.address),
        "recipient_username": (header.recipient_username, extension.recipient_username),
        "key_id": (header.key_id, extension.key_id),
        "sender_revision": (header.sender_revision, extension.sender_revision),
        "recipient_revision": (header.recipient_revision, extension.recipient_revision),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise HeaderMismatchError(f"header and extension disagree in {name}", field=name)


def check_addressed(sealed: SealedEnvelope, realm: str, me: Address, fingerprints: Container[bytes]) -> None:
    """Check, before step 11, that an envelope is for this device.

    Args:
        sealed: The envelope.
        realm: The own realm.
        me: The own address.
        fingerprints: Those of the own key pairs whose private keys are held.

    Raises:
        HeaderMismatchError: it is of another realm.
        OwnMessageError: it claims to come from this device.
        NotForThisDeviceError: it is for another user, or the statement does not list this device with a key held.
    """
    if sealed.header.realm != realm:
        raise HeaderMismatchError("the envelope is of another realm", field="realm")
    if sealed.header.sender == me:
        raise OwnMessageError("the envelope claims to come from this very device")
    if sealed.header.recipient_username != me.username:
        raise NotForThisDeviceError("the envelope is for another user")
    devices = [device for device in sealed.signed_extension.extension.recipient_devices if device.address == me]
    if not devices:
        raise NotForThisDeviceError(
            "the envelope is sealed to other devices of this user alone: a device opens nothing from before it came"
        )
    if not any(device.fingerprint in fingerprints for device in devices):
        raise NotForThisDeviceError(
            "the envelope is not sealed to a key that this device holds", unheld_at=sealed.header.recipient_revision
        )


def read_content(content: bytes, conversation: tuple[str, str]) -> pb.Content:
    """Parse a decrypted content and check that it has its place in the conversation.

    Raises:
        ContentRefusedError: it is none, or a copy of a sent message outside the conversation of a user with himself.
    """
    try:
        parsed = parse(pb.Content, content, "Content")
    except MalformedStatementError as error:
        raise ContentRefusedError("the plaintext is no content") from error
    kind = parsed.WhichOneof("kind")
    if kind is None:
        raise ContentRefusedError("the content is of a kind unknown to this version")
    if kind == "sent_copy" and conversation[0] != conversation[1]:
        raise ContentRefusedError("somebody else claims that this user sent a message")
    return parsed


def check_copy(copy: pb.SentCopy, username: str) -> None:
    """Check a copy of what another device of ``username`` sent; that it stands in its place, ``read_content`` has seen.

    Raises:
        ContentRefusedError: it has no message for the application, or cannot be a copy of one that this user sent.
    """
    if copy.WhichOneof("content") != "message":
        raise ContentRefusedError("this version takes copies of messages alone")
    try:
        named("recipient_username", check_username, copy.recipient_username)
        named("message_id", _check_message_id, copy.message_id)
    except MalformedStatementError as error:
        raise ContentRefusedError(f"the copy of a sent message is none: {error}") from error
    if copy.recipient_username == username:
        raise ContentRefusedError("a user sends no messages to himself that could be copied")
