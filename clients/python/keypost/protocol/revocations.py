"""How keys are withdrawn, and how an announced identity reset is stopped (docs/spec.md, "Revocations", "Resets")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import LARGEST_NUMBER, RESET_CANCELLATION, REVOCATION, check_number, named, parse
from keypost.protocol.errors import MalformedStatementError
from keypost.protocol.identifiers import Address, check_realm
from keypost.protocol.key_requests import FINGERPRINT_BYTES

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair, KeyRequest

REASONS = frozenset({pb.REVOCATION_REASON_RETIRED, pb.REVOCATION_REASON_LOST, pb.REVOCATION_REASON_COMPROMISED})
"""Why somebody may withdraw a key; a reset is the CA's own."""


@dataclass(frozen=True)
class Revocation:
    """A revocation that is well-formed; who signed it is verified apart.

    Attributes:
        address: The device whose key is withdrawn.
        fingerprint: The key, 32 bytes.
        reason: Why.
        revision: The revision at which it takes effect.
        since_time: For a compromised key, since when, Unix milliseconds; 0: since it is withdrawn.
        signed: The statement and its signature as received.
    """

    realm: str
    address: Address
    fingerprint: bytes
    reason: pb.RevocationReason.ValueType
    revision: int
    since_time: int
    signed: pb.SignedRevocation = field(repr=False, compare=False)


@dataclass(frozen=True)
class ResetCancellation:
    """A cancellation that is well-formed; who signed it is verified apart.

    Attributes:
        address: The device that signs.
        revision: The revision at which it takes effect.
        signed: The statement and its signature as received.
    """

    realm: str
    address: Address
    revision: int
    signed: pb.SignedResetCancellation = field(repr=False, compare=False)


def sign_revocation(revocation: pb.Revocation, signer: DeviceKeyPair) -> pb.SignedRevocation:
    """Return ``revocation`` signed by a device of the user."""
    statement = revocation.SerializeToString(deterministic=True)
    return pb.SignedRevocation(
        revocation=statement,
        signature=signer.suite.sign(signer.private_key, REVOCATION, statement),
        signer_fingerprint=signer.fingerprint,
    )


def read_revocation(signed: pb.SignedRevocation) -> Revocation:
    """Return a revocation, unverified: which key must have signed it, :func:`verify_revocation` is told.

    Raises:
        MalformedStatementError: it does not parse, or a field has a value that it never has.
    """
    message = parse(pb.Revocation, signed.revocation, "Revocation")
    address = _address(message.realm, message.username, message.device_id)
    named("revision", check_number, message.revision)
    if len(message.fingerprint) != FINGERPRINT_BYTES:
        raise MalformedStatementError("fingerprint: it has 32 bytes", field="fingerprint")
    if message.reason not in REASONS:
        raise MalformedStatementError("reason: it is retired, lost or compromised", field="reason")
    _check_since(message)
    return Revocation(
        message.realm, address, message.fingerprint, message.reason, message.revision, message.since_time, signed
    )


def verify_revocation(revocation: Revocation, signer: KeyRequest) -> None:
    """Verify that a device's key signed a revocation.

    Raises:
        SignatureInvalidError: it did not.
    """
    signed = revocation.signed
    signer.suite.verify(signer.public_key, REVOCATION, signed.revocation, signed.signature)


def sign_reset_cancellation(cancellation: pb.ResetCancellation, signer: DeviceKeyPair) -> pb.SignedResetCancellation:
    """Return ``cancellation`` signed by a device of the user."""
    statement = cancellation.SerializeToString(deterministic=True)
    return pb.SignedResetCancellation(
        reset_cancellation=statement,
        signature=signer.suite.sign(signer.private_key, RESET_CANCELLATION, statement),
        signer_fingerprint=signer.fingerprint,
    )


def read_reset_cancellation(signed: pb.SignedResetCancellation) -> ResetCancellation:
    """Return a cancellation, unverified: which key must have signed it, :func:`verify_reset_cancellation` is told.

    Raises:
        MalformedStatementError: it does not parse, or a field has a value that it never has.
    """
    message = parse(pb.ResetCancellation, signed.reset_cancellation, "ResetCancellation")
    address = _address(message.realm, message.username, message.device_id)
    named("revision", check_number, message.revision)
    return ResetCancellation(message.realm, address, message.revision, signed)


def verify_reset_cancellation(cancellation: ResetCancellation, signer: KeyRequest) -> None:
    """Verify that a device's key signed a cancellation.

    Raises:
        SignatureInvalidError: it did not.
    """
    signed = cancellation.signed
    signer.suite.verify(signer.public_key, RESET_CANCELLATION, signed.reset_cancellation, signed.signature)


def _address(realm: str, username: str, device_id: str) -> Address:
    try:
        check_realm(realm)
        return Address(username, device_id)
    except InvalidArgumentError as error:
        raise MalformedStatementError(str(error)) from error


def _check_since(message: pb.Revocation) -> None:
    if not 0 <= message.since_time <= LARGEST_NUMBER:
        raise MalformedStatementError("since_time: it is 0 or a time", field="since_time")
    if message.since_time and message.reason != pb.REVOCATION_REASON_COMPROMISED:
        raise MalformedStatementError("since_time: only a compromised key has one", field="since_time")
