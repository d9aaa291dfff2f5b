"""From the messages of the protos to what the rules are about, and back: well-formed, not verified yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.protocol.encoding import pae, sha256
from keypost.protocol.envelope import (
    KEY_ID_BYTES,
    MESSAGE_ID_BYTES,
    MOST_ENVELOPE_BYTES,
    SealedEnvelope,
    check_agreement,
    read_header,
)
from keypost.protocol.errors import HeaderMismatchError, ProtocolError
from keypost.protocol.extension import FINGERPRINT_BYTES, read_extension
from keypost.protocol.suites import NONCE_BYTES
from keypost_services.delivery.errors import envelope_too_large, header_mismatch
from keypost_services.runtime.errors import invalid_field

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keypost_services.delivery.mailboxes import Waiting

HEADER = "envelope.header"
EXTENSION = "envelope.key_extension.extension"
UUID_VERSION = 7
UUID_VARIANT = 2
TAG_BYTES = 16
MOST_UNACKNOWLEDGED = 256
"""How many envelopes may be under way on one stream, and how many one message may acknowledge."""

P = TypeVar("P")
R = TypeVar("R")


def read_send(request: pb.SendRequest, realm: str) -> SealedEnvelope:
    """Return the envelope of a Send whose parts are well-formed and agree with each other.

    Raises:
        ServiceError: INVALID_FIELD, ENVELOPE_TOO_LARGE, HEADER_MISMATCH.
    """
    envelope = request.envelope
    if (size := envelope.ByteSize()) > MOST_ENVELOPE_BYTES:
        raise envelope_too_large(size, MOST_ENVELOPE_BYTES)
    _check_header_fields(envelope.header, realm)
    header = _well_formed(HEADER, read_header, envelope.header)
    signed = _well_formed(EXTENSION, read_extension, envelope.key_extension)
    _check_rest(envelope)
    sealed = SealedEnvelope(
        header=header,
        header_bytes=envelope.header,
        signed_extension=signed,
        sealed_keys=tuple(envelope.key_extension.sealed_keys),
        nonce=envelope.nonce,
        ciphertext=envelope.ciphertext,
    )
    try:
        check_agreement(header, signed)
    except HeaderMismatchError as error:
        raise header_mismatch(str(error), error.metadata["field"]) from error
    return sealed


def _well_formed(field: str, read: Callable[[P], R], part: P) -> R:
    try:
        return read(part)
    except ProtocolError as error:
        raise invalid_field(field, str(error)) from error


def _check_header_fields(serialised: bytes, realm: str) -> None:
    try:
        header = envelope_pb2.Header.FromString(serialised)
    except DecodeError as error:
        raise invalid_field(HEADER, "is no serialised Header") from error
    message_id = header.message_id
    if len(message_id) != MESSAGE_ID_BYTES or (message_id[6] >> 4, message_id[8] >> 6) != (UUID_VERSION, UUID_VARIANT):
        raise invalid_field(f"{HEADER}.message_id", "must be a UUIDv7 of 16 bytes")
    if len(header.key_id) != KEY_ID_BYTES:
        raise invalid_field(f"{HEADER}.key_id", f"must have {KEY_ID_BYTES} bytes")
    if header.realm != realm:
        raise invalid_field(f"{HEADER}.realm", f"must be {realm}")
    for name in ("counter", "send_time", "sender_revision", "recipient_revision"):
        if getattr(header, name) < 1:
            raise invalid_field(f"{HEADER}.{name}", "must be positive")


def _check_rest(envelope: envelope_pb2.Envelope) -> None:
    if not envelope.key_extension.signature:
        raise invalid_field("envelope.key_extension.signature", "must be set")
    if len(envelope.nonce) != NONCE_BYTES:
        raise invalid_field("envelope.nonce", f"must have {NONCE_BYTES} bytes")
    if len(envelope.ciphertext) < TAG_BYTES:
        raise invalid_field("envelope.ciphertext", f"must have at least {TAG_BYTES} bytes")
    sealed_keys = envelope.key_extension.sealed_keys
    if not sealed_keys:
        raise invalid_field("envelope.key_extension.sealed_keys", "must be one at least")
    if any(len(sealed_key.fingerprint) != FINGERPRINT_BYTES for sealed_key in sealed_keys):
        raise invalid_field("envelope.key_extension.sealed_keys.fingerprint", f"must have {FINGERPRINT_BYTES} bytes")


def digest_of(sealed: SealedEnvelope) -> bytes:
    """Return 32 bytes that tell a repetition of an envelope from another one under the same message id."""
    signed = sealed.signed_extension
    sealed_keys = (piece for key in sealed.sealed_keys for piece in (key.fingerprint, key.sealed_key))
    return sha256(
        pae(sealed.header_bytes, signed.statement, signed.signature, sealed.nonce, sealed.ciphertext, *sealed_keys)
    )


def envelope_for(sealed: SealedEnvelope, fingerprint: bytes) -> bytes:
    """Return the serialised Envelope for the device with this key: with its own sealed key alone."""
    own = [key for key in sealed.sealed_keys if key.fingerprint == fingerprint]
    return envelope_pb2.Envelope(
        header=sealed.header_bytes,
        key_extension=sealed.signed_extension.to_message(own),
        nonce=sealed.nonce,
        ciphertext=sealed.ciphertext,
    ).SerializeToString()


def read_start(request: pb.ReceiveRequest) -> int:
    """Return how many envelopes may be under way unacknowledged.

    Raises:
        ServiceError: INVALID_FIELD: it is no ``start``, or out of bounds.
    """
    if request.WhichOneof("kind") != "start":
        raise invalid_field("start", "must be the first message of the stream")
    wanted = request.start.max_unacknowledged
    if wanted > MOST_UNACKNOWLEDGED:
        raise invalid_field("start.max_unacknowledged", f"must be at most {MOST_UNACKNOWLEDGED}")
    return wanted or MOST_UNACKNOWLEDGED


def read_acknowledge(request: pb.ReceiveRequest) -> Sequence[str]:
    """Return the delivery ids that a device acknowledges.

    Raises:
        ServiceError: INVALID_FIELD: it is no ``acknowledge``, or there are too many.
    """
    if request.WhichOneof("kind") != "acknowledge":
        raise invalid_field("acknowledge", "is all that may follow start")
    delivery_ids = request.acknowledge.delivery_ids
    if len(delivery_ids) > MOST_UNACKNOWLEDGED:
        raise invalid_field("acknowledge.delivery_ids", f"must be at most {MOST_UNACKNOWLEDGED}")
    return delivery_ids


def batch(waiting: Sequence[Waiting]) -> pb.ReceiveResponse:
    """Return the push of some envelopes."""
    deliveries = [
        pb.Delivery(delivery_id=one.delivery_id, accept_time=one.accept_time, envelope=one.envelope) for one in waiting
    ]
    return pb.ReceiveResponse(batch=pb.Batch(deliveries=deliveries))


def queue_empty() -> pb.ReceiveResponse:
    """Return the word that the backlog is handed out."""
    return pb.ReceiveResponse(queue_empty=pb.QueueEmpty())
