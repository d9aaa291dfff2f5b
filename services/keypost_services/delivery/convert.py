"""From the messages of the protos to what the rules are about, and back: well-formed, not verified yet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError
from keypost.protocol.envelope import (
    MOST_ENVELOPE_BYTES,
    MOST_HEADER_BYTES,
    Header,
    SealedEnvelope,
    check_agreement,
    read_header,
)
from keypost.protocol.errors import HeaderMismatchError, ProtocolError
from keypost.protocol.extension import (
    FINGERPRINT_BYTES,
    MOST_DEVICES,
    MOST_EXTENSION_BYTES,
    SignedExtension,
    read_extension,
)
from keypost.protocol.identifiers import check_username
from keypost.protocol.suites import NONCE_BYTES, SUITES
from keypost.tracing import is_context
from keypost_services.delivery.errors import batch_too_large, envelope_too_large, header_mismatch
from keypost_services.delivery.mailboxes import DELIVERY_ID
from keypost_services.runtime.errors import invalid_field
from keypost_services.runtime.parsing import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.mailboxes import Backlog, Waiting

HEADER = "envelope.header"
KEY_EXTENSION = "envelope.key_extension"
EXTENSION = f"{KEY_EXTENSION}.extension"
SEALED_KEYS = f"{KEY_EXTENSION}.sealed_keys"
SEALED_KEY_SIZES = tuple(suite.sealed_key_bytes for suite in SUITES)
TAG_BYTES = 16
MOST_BATCH_ENVELOPES = 256
MOST_BATCH_BYTES = 1024 * 1024
MOST_RESUMED = 256
"""How many conversations one message of a stream may take up again."""
MOST_UNACKNOWLEDGED = 256
"""How many envelopes may be under way on one stream, and how many one message may acknowledge."""


def read_batch(request: pb.SendStreamRequest) -> Sequence[envelope_pb2.Envelope]:
    """Return the envelopes of a batch that is not too large.

    Raises:
        ServiceError: BATCH_TOO_LARGE, INVALID_FIELD.
    """
    envelopes, resume = request.envelopes, request.resume
    if len(envelopes) > MOST_BATCH_ENVELOPES:
        raise batch_too_large("envelopes", f"{len(envelopes)} envelopes", MOST_BATCH_ENVELOPES)
    if len(envelopes) > 1 and (size := request.ByteSize()) > MOST_BATCH_BYTES:
        raise batch_too_large("envelopes", f"{size} bytes", MOST_BATCH_BYTES)
    if len(resume) > MOST_RESUMED:
        raise batch_too_large("resume", f"{len(resume)} recipients", MOST_RESUMED)
    if not envelopes and not resume:
        raise invalid_field("envelopes", "must be set, or resume")
    for index, username in enumerate(resume):
        try:
            check_username(username)
        except InvalidArgumentError as error:
            raise invalid_field(f"resume[{index}]", "is no username") from error
    return envelopes


def read_trace_contexts(request: pb.SendStreamRequest) -> Sequence[str]:
    """Return the trace contexts of a batch: one for each envelope, or none at all.

    Raises:
        ServiceError: INVALID_FIELD.
    """
    trace_contexts = request.trace_contexts
    if not trace_contexts:
        return ()
    if len(trace_contexts) != len(request.envelopes):
        raise invalid_field("trace_contexts", "must be as many as the envelopes, or none")
    for index, context in enumerate(trace_contexts):
        if context and not is_context(context):
            raise invalid_field(f"trace_contexts[{index}]", "must be a traceparent of version 00, or empty")
    return trace_contexts


def read_envelope(envelope: envelope_pb2.Envelope, realm: str) -> SealedEnvelope:
    """Return an envelope whose parts are well-formed and agree with each other.

    Raises:
        ServiceError: INVALID_FIELD, ENVELOPE_TOO_LARGE, HEADER_MISMATCH.
    """
    if (size := envelope.ByteSize()) > MOST_ENVELOPE_BYTES:
        raise envelope_too_large(size, MOST_ENVELOPE_BYTES)
    header = _read_header(envelope.header, realm)
    signed = _read_extension(envelope.key_extension)
    _check_sealed_keys(envelope.key_extension.sealed_keys)
    _check_ciphertext(envelope)
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
        raise header_mismatch(str(error), f"{HEADER}.{error.metadata['field']}") from error
    return sealed


def _read_header(serialised: bytes, realm: str) -> Header:
    with _statement(HEADER, envelope_pb2.Header, serialised, MOST_HEADER_BYTES):
        header = read_header(serialised)
    if header.realm != realm:
        raise invalid_field(f"{HEADER}.realm", f"must be {realm}")
    return header


def _read_extension(message: envelope_pb2.KeyExtension) -> SignedExtension:
    with _statement(EXTENSION, envelope_pb2.Extension, message.extension, MOST_EXTENSION_BYTES):
        signed = read_extension(message)
    if len(signed.signature) != (size := signed.extension.suite.signature_bytes):
        raise invalid_field(f"{KEY_EXTENSION}.signature", f"must have {size} bytes in the suite of the session")
    return signed


@contextlib.contextmanager
def _statement(field: str, kind: type[Message], serialised: bytes, most_bytes: int) -> Iterator[None]:
    """Name the field in which a statement is malformed."""
    if not serialised:
        raise invalid_field(field, "must be set")
    if len(serialised) > most_bytes:  # before it is parsed: once to read it, and once to name the field
        raise invalid_field(field, f"must have at most {most_bytes} bytes")
    try:
        yield
    except ProtocolError as error:
        if (inner := error.metadata.get("field")) is not None:
            raise invalid_field(f"{field}.{inner}", str(error)) from error
        parse(kind, serialised, field)
        raise invalid_field(field, str(error)) from error


def _check_sealed_keys(sealed_keys: Sequence[envelope_pb2.SealedKey]) -> None:
    if not 1 <= len(sealed_keys) <= MOST_DEVICES:
        raise invalid_field(SEALED_KEYS, f"must be 1 to {MOST_DEVICES}")
    for index, sealed_key in enumerate(sealed_keys):
        if len(sealed_key.fingerprint) != FINGERPRINT_BYTES:
            raise invalid_field(f"{SEALED_KEYS}[{index}].fingerprint", f"must have {FINGERPRINT_BYTES} bytes")
        # Of which suite the device is, its record says.
        if len(sealed_key.sealed_key) not in SEALED_KEY_SIZES:
            sizes = " or ".join(map(str, SEALED_KEY_SIZES))
            raise invalid_field(f"{SEALED_KEYS}[{index}].sealed_key", f"must have {sizes} bytes")


def _check_ciphertext(envelope: envelope_pb2.Envelope) -> None:
    if len(envelope.nonce) != NONCE_BYTES:
        raise invalid_field("envelope.nonce", f"must have {NONCE_BYTES} bytes")
    if len(envelope.ciphertext) < TAG_BYTES:
        raise invalid_field("envelope.ciphertext", f"must have at least {TAG_BYTES} bytes")


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
        ServiceError: INVALID_FIELD: it is no ``acknowledge``, there are too many, or one is none.
    """
    if request.WhichOneof("kind") != "acknowledge":
        raise invalid_field("acknowledge", "is all that may follow start")
    delivery_ids = request.acknowledge.delivery_ids
    if len(delivery_ids) > MOST_UNACKNOWLEDGED:
        raise invalid_field("acknowledge.delivery_ids", f"must be at most {MOST_UNACKNOWLEDGED}")
    for index, delivery_id in enumerate(delivery_ids):
        if not DELIVERY_ID.fullmatch(delivery_id):
            raise invalid_field(f"acknowledge.delivery_ids[{index}]", "is no delivery_id")
    return delivery_ids


def batch(waiting: Sequence[Waiting]) -> pb.ReceiveResponse:
    """Return the push of some envelopes."""
    deliveries = [
        pb.Delivery(
            delivery_id=one.delivery_id,
            accept_time=one.accept_time,
            envelope=one.envelope,
            attempts=one.attempts,
            trace_context=one.trace_context,
        )
        for one in waiting
    ]
    return pb.ReceiveResponse(batch=pb.Batch(deliveries=deliveries))


def queue_empty() -> pb.ReceiveResponse:
    """Return the word that the backlog is handed out."""
    return pb.ReceiveResponse(queue_empty=pb.QueueEmpty())


def mailboxes(backlogs: Mapping[Address, Backlog]) -> pb.ListMailboxesResponse:
    """Return how much waits for each device, in the order given."""
    return pb.ListMailboxesResponse(
        mailboxes=[
            pb.Mailbox(
                device_id=address.device_id,
                messages=backlog.messages,
                oldest_accept_time=backlog.oldest_accept_time,
            )
            for address, backlog in backlogs.items()
        ]
    )
