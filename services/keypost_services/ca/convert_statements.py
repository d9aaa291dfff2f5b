"""Between signed statements that are no key requests and what the domain works with, as ``convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import MalformedStatementError
from keypost.protocol.key_requests import FINGERPRINT_BYTES
from keypost.protocol.revocations import (
    REASONS,
    ResetCancellation,
    Revocation,
    read_reset_cancellation,
    read_revocation,
)
from keypost_services.ca.convert import SIGNATURE_SIZES, check_common, check_size
from keypost_services.runtime.errors import invalid_field
from keypost_services.runtime.parsing import parse

if TYPE_CHECKING:
    from collections.abc import Container

REVOCATION = "revocation.revocation"
CANCELLATION = "cancellation.reset_cancellation"


def read_signed_revocation(
    signed: pb.SignedRevocation, realm: str, signature_sizes: Container[int] = SIGNATURE_SIZES
) -> Revocation:
    """Return a revocation whose fields are well-formed; who signed it is verified apart.

    Args:
        signed: As received, in the field `revocation` of a request.
        realm: The realm of this CA.
        signature_sizes: How many bytes its signature may have.

    Raises:
        ServiceError: INVALID_FIELD.
    """
    check_size(signed.revocation, REVOCATION)
    message = parse(pb.Revocation, signed.revocation, REVOCATION)
    check_common(message, realm, REVOCATION)
    _check_revoked_key(message)
    _check_signature(signed, "revocation", signature_sizes)
    try:
        return read_revocation(signed)
    except MalformedStatementError as error:
        raise invalid_field(REVOCATION, str(error)) from error


def read_signed_cancellation(signed: pb.SignedResetCancellation, realm: str) -> ResetCancellation:
    """Return a cancellation whose fields are well-formed; who signed it is verified apart.

    Args:
        signed: As received, in the field `cancellation` of a request.
        realm: The realm of this CA.

    Raises:
        ServiceError: INVALID_FIELD.
    """
    check_size(signed.reset_cancellation, CANCELLATION)
    message = parse(pb.ResetCancellation, signed.reset_cancellation, CANCELLATION)
    check_common(message, realm, CANCELLATION)
    _check_signature(signed, "cancellation", SIGNATURE_SIZES)
    try:
        return read_reset_cancellation(signed)
    except MalformedStatementError as error:
        raise invalid_field(CANCELLATION, str(error)) from error


def _check_revoked_key(message: pb.Revocation) -> None:
    if len(message.fingerprint) != FINGERPRINT_BYTES:
        raise invalid_field(f"{REVOCATION}.fingerprint", f"it has {FINGERPRINT_BYTES} bytes")
    if message.reason not in REASONS:
        raise invalid_field(f"{REVOCATION}.reason", "it is RETIRED, LOST or COMPROMISED")
    if message.since_time < 0:
        raise invalid_field(f"{REVOCATION}.since_time", "it is 0 or a time")
    if message.since_time and message.reason != pb.REVOCATION_REASON_COMPROMISED:
        raise invalid_field(f"{REVOCATION}.since_time", "only a compromised key has one")


def _check_signature(
    signed: pb.SignedRevocation | pb.SignedResetCancellation, name: str, sizes: Container[int]
) -> None:
    if len(signed.signature) not in sizes:
        raise invalid_field(f"{name}.signature", "it has not the size of a signature")
    if len(signed.signer_fingerprint) != FINGERPRINT_BYTES:
        raise invalid_field(f"{name}.signer_fingerprint", f"it has {FINGERPRINT_BYTES} bytes")
