"""Who sends and receives in a benchmark: enrolled with the CA, and with envelopes sealed beforehand."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.clock import system_clock
from keypost.delivery.v1 import envelope_pb2
from keypost.protocol import negotiation as steps
from keypost.protocol.envelope import Header
from keypost.protocol.extension import DeviceKey, Session, SignedExtension
from keypost.protocol.identifiers import Address, conversation_of
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.rsa import public_key_der
from keypost.protocol.suites import STRONG
from keypost.protocol.tokens import audience_of, mint_token
from keypost.transport.ca_client import CaClient
from keypost.transport.retries import Retries
from support.ca_statements import key_request
from support.keys import crossed_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stack import BenchStack

CIPHERTEXT_BYTES = 800
TAG_BYTES = 16
OPEN = ca_pb.SignIn(open=ca_pb.OpenSignIn())
_channels = itertools.count()
_AT_ONCE = 16


@dataclass(frozen=True)
class Person:
    """A user with one device.

    Attributes:
        pair: The device's key pair.
        revision: Of the user's record.
    """

    pair: DeviceKeyPair
    revision: int

    @property
    def username(self) -> str:
        """The user."""
        return self.pair.address.username

    def metadata(self, realm: str, service: str) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call with a token."""
        token = mint_token(self.pair, audience_of(realm, service), system_clock())
        return (("authorization", f"Bearer {token}"),)


def open_channel(stack: BenchStack, name: str) -> grpc.aio.Channel:
    """Return a channel to the public port of a process, on a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), ("keypost.number", next(_channels)))
    credentials = grpc.ssl_channel_credentials(stack.public_root_pem)
    return grpc.aio.secure_channel(f"127.0.0.1:{stack.public_port(name)}", credentials, options=options)


async def enroll(stack: BenchStack, number: int) -> list[Person]:
    """Enrol so many users with the CA."""
    keys = crossed_keys(STRONG)
    async with open_channel(stack, "ca") as channel:
        ca, at_once = CaClient(channel, Retries(attempts=1)), asyncio.Semaphore(_AT_ONCE)

        async def one(index: int, private_key: Any) -> Person:
            async with at_once:
                return await _enroll(ca, stack.layout.realm, f"user{index:04}", private_key)

        return list(await asyncio.gather(*(one(index, next(keys)) for index in range(number))))


async def _enroll(ca: CaClient, realm: str, username: str, private_key: Any) -> Person:
    begun = await ca.begin_enrollment(username, OPEN)
    pair = DeviceKeyPair(Address(username, begun.device_id), STRONG, private_key, public_key_der(private_key))
    request = key_request(realm, pair, begun, {})
    await ca.enroll(sign_possession(request, pair), OPEN)
    return Person(pair, request.revision)


@dataclass
class Conversation:
    """Two people, and the session under which one of them sends to the other."""

    realm: str
    sender: Person
    recipient: Person
    _session: Session = field(init=False, repr=False)
    _signed: SignedExtension = field(init=False, repr=False)
    _sealed_keys: Sequence[envelope_pb2.SealedKey] = field(init=False, repr=False)
    _counter: int = 0

    def __post_init__(self) -> None:
        now = system_clock()
        users = conversation_of(self.sender.username, self.recipient.username)
        session_key = steps.step_4_generate_session_key(STRONG, os.urandom)
        keys: Any = [_RecipientKey(self.recipient.pair)]
        self._session = Session.create(self.realm, users, STRONG, DeviceKey.of(self.sender.pair), now, session_key)
        self._sealed_keys = steps.step_5_encrypt_session_key(session_key, keys)
        self._signed = steps.step_6_sign_session_key(
            self._session,
            self.sender.pair,
            recipients=keys,
            sender_revision=self.sender.revision,
            recipient_revision=self.recipient.revision,
            sign_time=now,
        )

    def envelopes(self, number: int) -> list[envelope_pb2.Envelope]:
        """Return so many new envelopes: 800 bytes of ciphertext each, and the tag."""
        return [self._envelope() for _ in range(number)]

    def _envelope(self) -> envelope_pb2.Envelope:
        self._counter += 1
        now = system_clock()
        header = Header(
            realm=self.realm,
            message_id=_message_id(now),
            sender=self.sender.pair.address,
            recipient_username=self.recipient.username,
            key_id=self._session.key_id,
            counter=self._counter,
            send_time=now,
            sender_revision=self.sender.revision,
            recipient_revision=self.recipient.revision,
        )
        envelope = steps.step_7_attach_to_message(
            header,
            envelope_pb2.Content(message=envelope_pb2.Message(media_type="text/plain", body=bytes(750))),
            session=self._session,
            signed_extension=self._signed,
            sealed_keys=self._sealed_keys,
            nonce=os.urandom(12),
        )
        if len(envelope.ciphertext) != CIPHERTEXT_BYTES + TAG_BYTES:
            raise ValueError(f"the ciphertext has {len(envelope.ciphertext)} bytes")
        return envelope


def _message_id(now: int) -> bytes:
    random = os.urandom(10)
    return now.to_bytes(6, "big") + bytes((0x70 | random[0] & 0x0F, random[1], 0x80 | random[2] & 0x3F)) + random[3:]


class _RecipientKey:
    """What the steps need to know of a recipient's key, without a look-up."""

    def __init__(self, pair: DeviceKeyPair) -> None:
        self.address = pair.address
        self.fingerprint = pair.fingerprint
        self.suite = pair.suite
        self.public_key = pair.private_key.public_key()
