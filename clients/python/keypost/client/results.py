"""What the client returns: plain values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from keypost.errors import InvalidArgumentError
from keypost.protocol.key_info import KeyRecord
from keypost.protocol.safety_numbers import grouped

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from keypost.keys.v1 import realm_trust_pb2
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key
    from keypost.protocol.suites import Suite

TEXT = "text/plain; charset=utf-8"
OCTETS = "application/octet-stream"
DEFAULT_SCOPE = "openid profile"

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


@dataclass(frozen=True)
class Sent:
    """A message that delivery has stored.

    Attributes:
        message_id: Its id (UUIDv7).
        counter: Its number among the messages of this device in the conversation.
        accept_time: When delivery accepted it, Unix milliseconds.
        key_id: The session that it went under (32 bytes).
        new_session: Whether that session was negotiated for it.
        rsa_operations: How many RSA operations sealing it took, by kind; none under an existing session.
    """

    message_id: UUID
    counter: int
    accept_time: int
    key_id: bytes
    new_session: bool
    rsa_operations: Mapping[str, int]


@dataclass(frozen=True)
class Outgoing:
    """A message on its way: kept in the outbox until delivery has stored it.

    Attributes:
        username: To whom it goes.
        message_id: Its id (UUIDv7).
        counter: Its number among the messages of this device in the conversation.
        create_time: When it was to be sent, Unix milliseconds.
        size: Its bytes.
        copy_to: For a copy that goes to the own other devices: to whom the message went.
    """

    username: str
    message_id: UUID
    counter: int
    create_time: int
    size: int
    copy_to: str | None


@dataclass(frozen=True)
class SentFile:
    """A file that delivery has stored, in parts.

    Attributes:
        file_id: 16 bytes.
        size: Its bytes.
        sha256: SHA-256 of the whole (32 bytes).
        parts: How many messages it took.
    """

    file_id: bytes
    size: int
    sha256: bytes
    parts: int


@dataclass(frozen=True)
class FileTransfer:
    """A file on its way to a user, which goes on where it broke.

    Attributes:
        file_id: 16 bytes.
        username: To whom it goes.
        path: Where it is on this device.
        name: The name that goes along.
        size: Its bytes.
        sent: How many of them delivery has.
        create_time: When it was to be sent, Unix milliseconds.
    """

    file_id: bytes
    username: str
    path: Path
    name: str
    size: int
    sent: int
    create_time: int


OnTransfer = Callable[[FileTransfer], None]
"""Called with a file on its way whenever more of it is sent."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file that has arrived whole; its SHA-256 is verified.

    Attributes:
        file_id: 16 bytes, chosen by the sender.
        name: The name that the sender gave it. Not to be trusted as a path.
        size: Its bytes.
        sha256: SHA-256 of the whole (32 bytes).
        parts: In how many parts it came.
    """

    file_id: bytes
    name: str
    size: int
    sha256: bytes
    parts: int
    _chunks: Callable[[], AsyncGenerator[bytes]] = field(repr=False, compare=False)

    def chunks(self) -> AsyncGenerator[bytes]:
        """Return the bytes, piece by piece; one piece is in memory at a time.

        The client forgets them once the message counts as handled.
        """
        return self._chunks()


@dataclass(frozen=True)
class Received:
    """A message that was opened and verified.

    Attributes:
        sender: The device that sent it.
        message_id: Its id (UUIDv7).
        counter: Its number among the messages of that device in the conversation.
        send_time: By the sender's clock, Unix milliseconds.
        accept_time: By delivery's clock, Unix milliseconds.
        key_id: The session that it came under (32 bytes).
        media_type: As the sender says.
        body: The bytes; empty for a file.
        redelivered: It was handed out before, and never counted as handled.
        attempts: How often it has been handed out, this time counted. After five times it is set aside.
        missed: How many earlier messages of that device had not come when this one did.
        file: The file, if it is one.
        sequence: Its place in the local inbox.
        verified: Whether the identity of the sender was verified when the message was opened.
        copy_to: To whom another device of the own user sent it, of which this is a copy; None for what was sent to
            this user. ``message_id`` is that of what was sent.
    """

    sender: Address
    message_id: UUID
    counter: int
    send_time: int
    accept_time: int
    key_id: bytes
    media_type: str
    body: bytes = field(repr=False)
    redelivered: bool
    missed: int
    file: ReceivedFile | None
    sequence: int = field(repr=False)
    verified: bool = False
    attempts: int = 1
    copy_to: str | None = None

    @property
    def text(self) -> str:
        """The body as text.

        Raises:
            InvalidArgumentError: it is not text in UTF-8.
        """
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgumentError("the body is not text in UTF-8: read `body`", field="body") from error


class RevocationReason(StrEnum):
    """Why a device is revoked."""

    RETIRED = "retired"
    """It was given up in good order."""
    LOST = "lost"
    """It is gone."""
    COMPROMISED = "compromised"
    """Its key may be in other hands: nothing that it signed is trusted any more."""


@dataclass(frozen=True)
class Devices(KeyRecord):
    """The own user's record, with what this device knows of the others.

    Attributes:
        address: This device.
        names: The private names, by device id.
    """

    address: Address = field(kw_only=True)
    names: Mapping[str, str] = field(kw_only=True, repr=False)

    @classmethod
    def of(cls, record: KeyRecord, address: Address, names: Mapping[str, str]) -> Devices:
        """Return the record with these names."""
        values = {each.name: getattr(record, each.name) for each in fields(KeyRecord)}
        return cls(**values, address=address, names=names)

    def name_of(self, key: Key) -> str | None:
        """Return the private name of the device that holds a key."""
        return self.names.get(key.address.device_id)

    def is_this_device(self, key: Key) -> bool:
        """Return whether a key is, or was, this device's."""
        return key.address == self.address


@dataclass(frozen=True)
class Oidc:
    """The OpenID Connect issuer at which users of a realm sign in, as the bundle says.

    Attributes:
        issuer: Its URL, exactly as it names itself.
        client_id: The client id of Keypost there.
        scope: What is asked for, with spaces between.
        tls_roots_pem: Which certificates its TLS certificate must chain to; empty: the operating system's.
    """

    issuer: str
    client_id: str
    scope: str
    tls_roots_pem: str

    @classmethod
    def of(cls, bundle: realm_trust_pb2.Bundle) -> Self | None:
        """Return what a bundle says; None if it says nothing."""
        if not bundle.HasField("oidc"):
            return None
        said = bundle.oidc
        return cls(said.issuer, said.client_id, said.scope or DEFAULT_SCOPE, said.tls_roots_pem)


@dataclass(frozen=True)
class JoinRequest:
    """What a further device asks of the one that invited it.

    Attributes:
        address: The device that it would be.
        suite: The suite of its key.
        fingerprint: Its key, 32 bytes.
        text: The whole signed request, for that other device.
    """

    address: Address
    suite: Suite
    fingerprint: bytes
    text: str


@dataclass(frozen=True)
class WaitingElsewhere:
    """What waits for another device of this user, by the word of delivery.

    Attributes:
        device: The other device.
        messages: How many messages wait for it.
        oldest_accept_time: When delivery accepted the first of them, Unix milliseconds.
    """

    device: Address
    messages: int
    oldest_accept_time: int


@dataclass(frozen=True)
class SetAside:
    """A message that was set aside: it is kept, and not handed out before it is retried.

    Attributes:
        reason: Why: the reason of the error, or ``HANDLED_TOO_OFTEN``.
        username: Who sent it; empty if that cannot be read.
        accept_time: When delivery accepted it, Unix milliseconds.
        size: Bytes of the envelope, or of what was in it.
        message_id: Its id, if it was opened.
    """

    reason: str
    username: str
    accept_time: int
    size: int
    message_id: UUID | None = None


@dataclass(frozen=True)
class SafetyNumber:
    """What two people compare to know that they see the same keys.

    Attributes:
        username: The other user.
        digits: 60 digits, the same on both sides; for the own user the 30 that another own device shows.
        code: The text of the QR code, the same on both sides.
        verified: They were compared, and the identity is still that one.
        changed: The identity is another one than the one that was accepted: nothing is sent until this number is.
    """

    username: str
    digits: str
    code: str
    verified: bool
    changed: bool

    @property
    def grouped(self) -> str:
        """The digits in groups of five, to be read aloud."""
        return grouped(self.digits)


@dataclass(frozen=True)
class Event:
    """Something that the application may want to know and that no call returns.

    Attributes:
        reason: The word for it, such as ``IDENTITY_CHANGED``, ``CLONE_SUSPECTED`` or ``WEAK_SUITE``; where a message
            was set aside, why.
        kind: ``set_aside``, ``waiting``, ``warning``, ``error`` or ``info``.
        sentence: What happened and what to do.
        facts: For machines; never a secret.
    """

    kind: str
    reason: str
    sentence: str
    facts: Mapping[str, str | int]


OnEvent = Callable[[Event], None]
