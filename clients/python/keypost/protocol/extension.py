"""The extension statement: who made a session key, who sends under it, and to whom (docs/spec.md, "Key extension")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError
from keypost.protocol.encoding import KEY_ID, check_number, int_bytes, named, pae, parse, sha256
from keypost.protocol.errors import MalformedStatementError
from keypost.protocol.identifiers import Address, check_realm, check_username, conversation_of
from keypost.protocol.suites import Suite, suite_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from keypost.protocol.key_info import Key
    from keypost.protocol.key_requests import DeviceKeyPair

FINGERPRINT_BYTES = 32
MOST_DEVICES = 100
MOST_EXTENSION_BYTES = 16 * 1024


@dataclass(frozen=True, order=True)
class DeviceKey:
    """One key of one device."""

    address: Address
    fingerprint: bytes

    @classmethod
    def of(cls, key: Key | DeviceKeyPair) -> DeviceKey:
        """Return the name of ``key``."""
        return cls(key.address, key.fingerprint)

    def to_message(self) -> pb.DeviceKey:
        """Return the message."""
        return pb.DeviceKey(address=address_message(self.address), fingerprint=self.fingerprint)

    @classmethod
    def from_message(cls, message: pb.DeviceKey) -> DeviceKey:
        """Return the key that a message names; raises :class:`MalformedStatementError`."""
        if len(message.fingerprint) != FINGERPRINT_BYTES:
            raise MalformedStatementError("a fingerprint has 32 bytes", field="fingerprint")
        return cls(named("address", read_address, message.address), message.fingerprint)


def address_message(address: Address) -> pb.Address:
    """Return the message for ``address``."""
    return pb.Address(username=address.username, device_id=address.device_id)


def read_address(message: pb.Address) -> Address:
    """Return the address in a message; raises :class:`MalformedStatementError`."""
    try:
        return Address(message.username, message.device_id)
    except InvalidArgumentError as error:
        raise MalformedStatementError(f"address: {error}", **error.metadata) from error


@dataclass(frozen=True)
class Extension:
    """What an extension statement says (see ``Extension`` in the protos)."""

    realm: str
    suite: Suite
    key_id: bytes
    creator: DeviceKey
    session_create_time: int
    signer: DeviceKey
    sign_time: int
    recipient_username: str
    sender_revision: int
    recipient_revision: int
    recipient_devices: tuple[DeviceKey, ...]

    @property
    def conversation(self) -> tuple[str, str]:
        """The two users."""
        return conversation_of(self.signer.address.username, self.recipient_username)

    @property
    def is_creators(self) -> bool:
        """Whether it is the statement by which the session was created."""
        return self.signer == self.creator

    def to_bytes(self) -> bytes:
        """Return the statement."""
        message = pb.Extension(
            realm=self.realm,
            suite=self.suite.id,
            key_id=self.key_id,
            creator=self.creator.to_message(),
            session_create_time=self.session_create_time,
            signer=self.signer.to_message(),
            sign_time=self.sign_time,
            recipient_username=self.recipient_username,
            sender_revision=self.sender_revision,
            recipient_revision=self.recipient_revision,
            recipient_devices=[device.to_message() for device in self.recipient_devices],
        )
        return message.SerializeToString(deterministic=True)


@dataclass(frozen=True)
class SignedExtension:
    """An extension statement as it travels; its identity is its bytes.

    Attributes:
        extension: What it says.
        statement: The serialised statement.
        signature: The signer's.
    """

    extension: Extension
    statement: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def to_message(self, sealed_keys: Iterable[pb.SealedKey]) -> pb.KeyExtension:
        """Return the key extension with these sealed keys."""
        return pb.KeyExtension(extension=self.statement, signature=self.signature, sealed_keys=sealed_keys)


def read_extension(message: pb.KeyExtension) -> SignedExtension:
    """Parse the statement of a key extension, without verifying its signature (step 13 does).

    Raises:
        MalformedStatementError: it does not parse, or a field has a value that it never has.
        SuiteUnknownError: its suite is unknown.
    """
    if len(message.extension) > MOST_EXTENSION_BYTES:
        raise MalformedStatementError(f"an extension has at most {MOST_EXTENSION_BYTES} bytes")
    parsed = parse(pb.Extension, message.extension, "Extension")
    extension = Extension(
        realm=parsed.realm,
        suite=named("suite", suite_for, parsed.suite),
        key_id=parsed.key_id,
        creator=named("creator", DeviceKey.from_message, parsed.creator),
        session_create_time=parsed.session_create_time,
        signer=named("signer", DeviceKey.from_message, parsed.signer),
        sign_time=parsed.sign_time,
        recipient_username=parsed.recipient_username,
        sender_revision=parsed.sender_revision,
        recipient_revision=parsed.recipient_revision,
        recipient_devices=_read_devices(parsed.recipient_devices),
    )
    _check(extension)
    return SignedExtension(extension, message.extension, message.signature)


def _read_devices(devices: Sequence[pb.DeviceKey]) -> tuple[DeviceKey, ...]:
    field = "recipient_devices"
    if not 1 <= len(devices) <= MOST_DEVICES:
        raise MalformedStatementError(f"extension: 1 to {MOST_DEVICES} recipient devices", field=field)
    return tuple(named(f"{field}[{index}]", DeviceKey.from_message, device) for index, device in enumerate(devices))


def _check(extension: Extension) -> None:
    named("realm", check_realm, extension.realm)
    named("recipient_username", check_username, extension.recipient_username)
    if len(extension.key_id) != FINGERPRINT_BYTES:
        raise MalformedStatementError("extension: key_id has 32 bytes", field="key_id")
    for name in ("session_create_time", "sign_time", "sender_revision", "recipient_revision"):
        named(name, check_number, getattr(extension, name))
    if extension.creator.address.username not in extension.conversation:
        raise MalformedStatementError("extension: the creator has no part in the conversation", field="creator")
    _check_devices(extension)


def _check_devices(extension: Extension) -> None:
    ids = [device.address.device_id for device in extension.recipient_devices]
    if ids != sorted(set(ids)):
        raise MalformedStatementError(
            "extension: recipient devices are ordered by device_id, none twice", field="recipient_devices"
        )
    for index, device in enumerate(extension.recipient_devices):
        if device.address.username != extension.recipient_username:
            raise MalformedStatementError(
                "extension: a recipient device is not the recipient's", field=f"recipient_devices[{index}]"
            )


@dataclass(frozen=True)
class Session:
    """A negotiated session key with what it belongs to.

    Attributes:
        realm: The realm.
        conversation: The two users, in order.
        suite: Its creator's.
        key_id: Its name, 32 bytes.
        creator: The device and key that created it.
        create_time: When, by the creator's clock.
        key: The session key itself; never shown.
    """

    realm: str
    conversation: tuple[str, str]
    suite: Suite
    key_id: bytes
    creator: DeviceKey
    create_time: int
    key: bytes = field(repr=False)

    @classmethod
    def create(
        cls, realm: str, conversation: tuple[str, str], suite: Suite, creator: DeviceKey, create_time: int, key: bytes
    ) -> Session:
        """Return the session of a session key, with its key_id computed."""
        key_id = key_id_of(realm, suite, creator, conversation, create_time, key)
        return cls(realm, conversation, suite, key_id, creator, create_time, key)

    def message_key(self, sender: DeviceKey) -> bytes:
        """Return the key under which ``sender`` encrypts messages of this session."""
        return self.suite.message_key(
            self.key,
            self.realm.encode(),
            self.suite.name.encode(),
            self.key_id,
            str(sender.address).encode(),
            sender.fingerprint,
        )


def key_id_of(
    realm: str, suite: Suite, creator: DeviceKey, conversation: tuple[str, str], create_time: int, session_key: bytes
) -> bytes:
    """Return the name of a session key: 32 bytes."""
    return sha256(
        pae(
            KEY_ID,
            realm.encode(),
            suite.name.encode(),
            str(creator.address).encode(),
            creator.fingerprint,
            conversation[0].encode(),
            conversation[1].encode(),
            int_bytes(create_time),
            session_key,
        )
    )
