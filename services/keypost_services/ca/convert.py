"""Between messages and what the domain works with. All bad input ends here, with the name of its field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    KeyRefusedError,
    MalformedStatementError,
    PossessionError,
    SuiteUnknownError,
)
from keypost.protocol.identifiers import check_device_id
from keypost.protocol.key_requests import FINGERPRINT_BYTES, MOST_NONCE_BYTES, KeyRequest, read_key_request
from keypost_services.ca import errors
from keypost_services.ca.codes import CodeMalformedError, read_code
from keypost_services.ca.sign_in import Proof
from keypost_services.ca.store import RecordedKey
from keypost_services.runtime.errors import ServiceError, invalid_field
from keypost_services.runtime.requests import read_username

if TYPE_CHECKING:
    from keypost.ca.v1 import ca_service_pb2 as ca_pb
    from keypost_services.ca.store import Event

MOST_REQUEST_BYTES = 8 * 1024
_MOST_SIGNATURE_BYTES = 1024
_LARGEST_INTEGER = 2**63 - 1  # what a database column holds


def read_device_id(device_id: str, field: str = "device_id") -> str:
    """Return a device id; raises ServiceError INVALID_FIELD."""
    try:
        return check_device_id(device_id)
    except InvalidArgumentError as error:
        raise invalid_field(field, str(error)) from error


def read_history_from(fingerprint: bytes) -> bytes:
    """Return a fingerprint or nothing; raises ServiceError INVALID_FIELD."""
    if len(fingerprint) not in (0, FINGERPRINT_BYTES):
        raise invalid_field("history_from_fingerprint", f"it has {FINGERPRINT_BYTES} bytes, or none")
    return fingerprint


def read_sequence(sequence: int) -> int:
    """Return a number that an event can have; raises ServiceError INVALID_FIELD."""
    if sequence > _LARGEST_INTEGER:
        raise invalid_field("after_sequence", "it is below 2^63")
    return sequence


def read_proof(sign_in: ca_pb.SignIn) -> Proof:
    """Return what the caller shows; raises ServiceError INVALID_FIELD."""
    match sign_in.WhichOneof("kind"):
        case "one_time_code":
            try:
                return Proof(read_code(sign_in.one_time_code))
            except CodeMalformedError as error:
                raise invalid_field("sign_in.one_time_code", str(error)) from error
        case "open":
            return Proof(None)
        case _:
            raise invalid_field("sign_in", "exactly one kind must be set")


def read_request(signed: pb.SignedKeyRequest, realm: str, kind: pb.KeyRequestKind.ValueType) -> KeyRequest:
    """Return a key request whose fields are well-formed and whose possession is verified.

    Raises:
        ServiceError: INVALID_FIELD, SUITE_NOT_ALLOWED, KEY_REFUSED or POSSESSION_UNPROVEN.
    """
    _check_sizes(signed)
    _check_fields(_parse(signed.key_request), realm, kind)
    try:
        return read_key_request(signed)
    except SuiteUnknownError as error:
        raise errors.suite_not_allowed(str(error)) from error
    except KeyRefusedError as error:
        raise errors.key_refused(str(error)) from error
    except PossessionError as error:
        raise errors.possession_unproven() from error
    except MalformedStatementError as error:
        raise invalid_field("key_request", str(error)) from error


def recorded_key(request: KeyRequest, now: int) -> RecordedKey:
    """Return the key as it enters the records: good from now on."""
    return RecordedKey(
        fingerprint=request.fingerprint,
        username=request.address.username,
        device_id=request.address.device_id,
        suite=pb.Suite.ValueType(request.suite.id),
        kind=request.kind,
        epoch=request.epoch,
        revision=request.revision,
        parent_fingerprint=request.parent_fingerprint,
        expire_time=request.expire_time,
        key_request=request.signed.key_request,
        possession=request.signed.possession,
        endorsement=request.signed.endorsement,
        enter_time=now,
        state=pb.KEY_STATE_GOOD,
        state_time=now,
    )


def signed_request_message(key: RecordedKey) -> pb.SignedKeyRequest:
    """Return the request by which a key entered, as it was received."""
    return pb.SignedKeyRequest(key_request=key.key_request, possession=key.possession, endorsement=key.endorsement)


def entry_message(key: RecordedKey) -> pb.KeyEntry:
    """Return a key as it stands in the record of its user."""
    return pb.KeyEntry(
        request=signed_request_message(key),
        state=key.state,
        state_time=key.state_time,
        reason=key.reason,
        enter_time=key.enter_time,
    )


def event_message(event: Event) -> pb.KeyEvent:
    """Return an event as directories read it."""
    return pb.KeyEvent(
        sequence=event.sequence,
        username=event.username,
        revision=event.revision,
        kind=event.kind,
        fingerprint=event.fingerprint,
        ended_fingerprint=event.ended_fingerprint,
        create_time=event.create_time,
    )


def _check_sizes(signed: pb.SignedKeyRequest) -> None:
    if not 1 <= len(signed.key_request) <= MOST_REQUEST_BYTES:
        raise invalid_field("key_request.key_request", f"it has 1 to {MOST_REQUEST_BYTES} bytes")
    if len(signed.possession) > _MOST_SIGNATURE_BYTES:
        raise invalid_field("key_request.possession", "no suite has such long signatures")
    if len(signed.endorsement) > _MOST_SIGNATURE_BYTES:
        raise invalid_field("key_request.endorsement", "no suite has such long signatures")


def _parse(statement: bytes) -> pb.KeyRequest:
    try:
        return pb.KeyRequest.FromString(statement)
    except DecodeError as error:
        raise invalid_field("key_request.key_request", "these bytes are no KeyRequest") from error


def _check_fields(message: pb.KeyRequest, realm: str, kind: pb.KeyRequestKind.ValueType) -> None:
    if message.realm != realm:
        raise _request_field("realm", "it is not the realm of this CA")
    read_username(message.username, _name("username"))
    read_device_id(message.device_id, _name("device_id"))
    if message.kind != kind:
        raise _request_field("kind", f"it must be {pb.KeyRequestKind.Name(kind)} here")
    parent_bytes = 0 if kind == pb.KEY_REQUEST_KIND_ENROLL else FINGERPRINT_BYTES
    if len(message.parent_fingerprint) != parent_bytes:
        raise _request_field("parent_fingerprint", f"it has {parent_bytes} bytes here")
    if message.expire_time < 1:
        raise _request_field("expire_time", "it must be set")
    if message.epoch < 1:
        raise _request_field("epoch", "it is at least 1")
    if not 1 <= message.revision <= _LARGEST_INTEGER:
        raise _request_field("revision", "it is at least 1 and below 2^63")
    if len(message.ca_nonce) > MOST_NONCE_BYTES:
        raise _request_field("ca_nonce", f"it has at most {MOST_NONCE_BYTES} bytes")


def _request_field(field: str, why: str) -> ServiceError:
    return invalid_field(_name(field), why)


def _name(field: str) -> str:
    return f"key_request.key_request.{field}"
