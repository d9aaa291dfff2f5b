"""KeyRequest: how a key asks to be recorded, proves possession and is vouched for (docs/spec.md, "Key requests")."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import KEY_REQUEST, check_number, fingerprint, named, parse
from keypost.protocol.errors import (
    EndorsementError,
    MalformedStatementError,
    PossessionError,
    SignatureInvalidError,
)
from keypost.protocol.identifiers import Address, check_realm
from keypost.protocol.suites import WEAK, Suite, suite_for

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

ROOT_KINDS = frozenset({pb.KEY_REQUEST_KIND_ENROLL, pb.KEY_REQUEST_KIND_RESET})
CHILD_KINDS = frozenset({pb.KEY_REQUEST_KIND_APPROVE, pb.KEY_REQUEST_KIND_RENEW})
FINGERPRINT_BYTES = 32
MOST_NONCE_BYTES = 128


@dataclass(frozen=True)
class DeviceKeyPair:
    """A device's own key pair.

    Attributes:
        address: The device.
        suite: The suite of the pair, for life.
        private_key: The private half; never shown.
    """

    address: Address
    suite: Suite
    private_key: RSAPrivateKey = field(repr=False, compare=False)
    public_key_der: bytes = field(repr=False)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: 32 bytes."""
        return fingerprint(self.public_key_der)


@dataclass(frozen=True)
class KeyRequest:
    """A key request whose possession signature is verified.

    Attributes:
        signed: The statement and signatures as received.
    """

    realm: str
    address: Address
    suite: Suite
    public_key_der: bytes = field(repr=False)
    expire_time: int
    kind: pb.KeyRequestKind.ValueType
    parent_fingerprint: bytes
    epoch: int
    revision: int
    ca_nonce: bytes = field(repr=False)
    signed: pb.SignedKeyRequest = field(repr=False, compare=False)
    public_key: RSAPublicKey = field(repr=False, compare=False)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: 32 bytes."""
        return fingerprint(self.public_key_der)

    @property
    def is_root(self) -> bool:
        """Whether the key stands on its own, without a parent."""
        return self.kind in ROOT_KINDS


def sign_possession(request: pb.KeyRequest, key_pair: DeviceKeyPair) -> pb.SignedKeyRequest:
    """Return ``request`` signed by the key that it presents; a parent's endorsement is added beside it."""
    statement = request.SerializeToString(deterministic=True)
    possession = key_pair.suite.sign(key_pair.private_key, KEY_REQUEST, statement)
    return pb.SignedKeyRequest(key_request=statement, possession=possession)


def read_key_request(signed: pb.SignedKeyRequest) -> KeyRequest:
    """Verify the possession signature of a key request and return it. Endorsements: :func:`verify_endorsement`.

    A key request is parsed before it is verified: the key that verifies it is inside.

    Raises:
        MalformedStatementError: it does not parse, or a field has a value that it never has.
        SuiteUnknownError: its suite is unknown.
        KeyRefusedError: its key is not one of its suite.
        PossessionError: it is not signed by its key.
    """
    message = parse(pb.KeyRequest, signed.key_request, "KeyRequest")
    suite = suite_for(message.suite)
    public_key = suite.load_public_key(message.public_key_der)
    _verify_possession(suite, public_key, signed)
    _check_fields(message, signed)
    return KeyRequest(
        realm=message.realm,
        address=Address(message.username, message.device_id),
        suite=suite,
        public_key_der=message.public_key_der,
        expire_time=message.expire_time,
        kind=message.kind,
        parent_fingerprint=message.parent_fingerprint,
        epoch=message.epoch,
        revision=message.revision,
        ca_nonce=message.ca_nonce,
        signed=signed,
        public_key=public_key,
    )


def _verify_possession(suite: Suite, public_key: RSAPublicKey, signed: pb.SignedKeyRequest) -> None:
    try:
        suite.verify(public_key, KEY_REQUEST, signed.key_request, signed.possession)
    except SignatureInvalidError as error:
        raise PossessionError("the key request is not signed by the key that it presents") from error


def _check_fields(message: pb.KeyRequest, signed: pb.SignedKeyRequest) -> None:
    try:
        check_realm(message.realm)
        Address(message.username, message.device_id)
    except InvalidArgumentError as error:
        raise MalformedStatementError(f"key request: {error}") from error
    named("revision", check_number, message.revision)
    named("expire_time", check_number, message.expire_time)
    if message.epoch < 1 or len(message.ca_nonce) > MOST_NONCE_BYTES:
        raise MalformedStatementError("key request: epoch or ca_nonce is out of bounds")
    if message.kind in ROOT_KINDS:
        if message.parent_fingerprint or signed.endorsement:
            raise MalformedStatementError("key request: a root has no parent")
    elif message.kind not in CHILD_KINDS or len(message.parent_fingerprint) != FINGERPRINT_BYTES:
        raise MalformedStatementError("key request: no known kind, or no parent")


def verify_endorsement(child: KeyRequest, parent: KeyRequest) -> None:
    """Verify that ``parent`` vouches for ``child``.

    Raises:
        EndorsementError: it does not, or may not: another user or realm, a renewal on another device or to a lower
            suite, an approval by a weak key or on the same device, or an order of revisions that cannot be.
    """
    if child.parent_fingerprint != parent.fingerprint:
        raise EndorsementError("the endorsing key is not the one that the key request names")
    _check_may_vouch(child, parent)
    endorsement_hash = parent.suite.endorsement_hash(child.signed.key_request, child.public_key_der)
    try:
        parent.suite.verify_endorsement(parent.public_key, endorsement_hash, child.signed.endorsement)
    except SignatureInvalidError as error:
        raise EndorsementError("the key request is not signed by its parent key") from error


def _check_may_vouch(child: KeyRequest, parent: KeyRequest) -> None:
    if (child.realm, child.address.username) != (parent.realm, parent.address.username):
        raise EndorsementError("a key vouches for keys of its own user alone")
    if child.epoch != parent.epoch or child.revision <= parent.revision:
        raise EndorsementError("a key vouches within its epoch, for keys that enter after it")
    if child.kind == pb.KEY_REQUEST_KIND_RENEW:
        if child.address != parent.address:
            raise EndorsementError("a key is renewed on its own device")
        if child.suite.strength < parent.suite.strength:
            raise EndorsementError("a renewal never lowers the suite")
    elif parent.suite is WEAK or child.address == parent.address:
        raise EndorsementError("approval comes from a strong key of another device")
