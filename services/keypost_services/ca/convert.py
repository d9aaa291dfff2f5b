"""Between messages and what the domain works with. All bad input ends here, with the name of its field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import LARGEST_NUMBER
from keypost.protocol.errors import (
    KeyRefusedError,
    MalformedStatementError,
    PossessionError,
    SuiteUnknownError,
)
from keypost.protocol.identifiers import check_device_id
from keypost.protocol.key_requests import (
    FINGERPRINT_BYTES,
    MOST_NONCE_BYTES,
    ROOT_KINDS,
    KeyRequest,
    read_key_request,
)
from keypost.protocol.suites import SUITES, suite_for
from keypost_services.ca import errors
from keypost_services.ca.codes import CodeMalformedError, read_code
from keypost_services.ca.sign_in.port import Proof
from keypost_services.ca.store import RecordedKey
from keypost_services.runtime.errors import ServiceError, invalid_field
from keypost_services.runtime.parsing import parse
from keypost_services.runtime.requests import read_username

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.ca.v1 import ca_service_pb2 as ca_pb
    from keypost_services.ca.store import Event

STATEMENT = "key_request.key_request"
MOST_STATEMENT_BYTES = 8 * 1024
MOST_ID_TOKEN_CHARACTERS = 8 * 1024
_SIGNED_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
SIGNATURE_SIZES = tuple(suite.signature_bytes for suite in SUITES)


def read_device_id(device_id: str, field: str = "device_id") -> str:
    """Return a device id; raises ServiceError INVALID_FIELD."""
    try:
        return check_device_id(device_id)
    except InvalidArgumentError as error:
        raise invalid_field(field, str(error)) from error


def read_proof(sign_in: ca_pb.SignIn) -> Proof:
    """Return what the caller shows; raises ServiceError INVALID_FIELD."""
    match sign_in.WhichOneof("kind"):
        case "one_time_code":
            try:
                return Proof(read_code(sign_in.one_time_code))
            except CodeMalformedError as error:
                raise invalid_field("sign_in.one_time_code", str(error)) from error
        case "id_token":
            return Proof(id_token=_read_id_token(sign_in.id_token))
        case "open":
            return Proof()
        case _:
            raise invalid_field("sign_in", "exactly one kind must be set")


def _read_id_token(text: str) -> str:
    """Return what may be a signed JWT: three parts in base64url."""
    if len(text) > MOST_ID_TOKEN_CHARACTERS or not _SIGNED_JWT.fullmatch(text):
        why = f"an ID token is a signed JWT of at most {MOST_ID_TOKEN_CHARACTERS} characters"
        raise invalid_field("sign_in.id_token", why)
    return text


def read_request(signed: pb.SignedKeyRequest, realm: str, *kinds: pb.KeyRequestKind.ValueType) -> KeyRequest:
    """Return a key request whose fields are well-formed and whose possession is verified.

    Args:
        signed: As received.
        realm: The realm of this CA.
        kinds: The ways to enter that the method takes.

    Raises:
        ServiceError: INVALID_FIELD or POSSESSION_UNPROVEN.
    """
    check_size(signed.key_request, STATEMENT)
    message = parse(pb.KeyRequest, signed.key_request, STATEMENT)
    _check_fields(message, realm, kinds)
    _check_signatures(signed, message)
    try:
        return read_key_request(signed)
    except KeyRefusedError as error:
        raise _request_field("public_key_der", str(error)) from error
    except PossessionError as error:
        raise errors.possession_unproven() from error
    except MalformedStatementError as error:
        raise invalid_field(STATEMENT, str(error)) from error


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


def check_common(message: pb.KeyRequest | pb.Revocation | pb.ResetCancellation, realm: str, name: str) -> None:
    """Check what every statement of a device says: which realm, user and device, at which revision.

    Args:
        message: The statement.
        realm: The realm of this CA.
        name: The field in which the statement came.

    Raises:
        ServiceError: INVALID_FIELD.
    """
    _check_realm(message.realm, realm, name)
    read_username(message.username, f"{name}.username")
    read_device_id(message.device_id, f"{name}.device_id")
    if not 1 <= message.revision <= LARGEST_NUMBER:
        raise invalid_field(f"{name}.revision", "it is at least 1 and below 2^63")


def check_size(statement: bytes, name: str) -> None:
    """Check how long a statement is, in the field ``name``; raises ServiceError INVALID_FIELD."""
    if not 1 <= len(statement) <= MOST_STATEMENT_BYTES:
        raise invalid_field(name, f"it has 1 to {MOST_STATEMENT_BYTES} bytes")


def _check_fields(message: pb.KeyRequest, realm: str, kinds: Sequence[pb.KeyRequestKind.ValueType]) -> None:
    check_common(message, realm, STATEMENT)
    _check_kind(message, kinds)
    if message.expire_time < 1:
        raise _request_field("expire_time", "it must be set")
    if message.epoch < 1:
        raise _request_field("epoch", "it is at least 1")
    if not 1 <= len(message.ca_nonce) <= MOST_NONCE_BYTES:
        raise _request_field("ca_nonce", f"it has 1 to {MOST_NONCE_BYTES} bytes")


def _check_realm(named: str, realm: str, name: str) -> None:
    if named != realm:
        raise invalid_field(f"{name}.realm", "it is not the realm of this CA")


def _check_kind(message: pb.KeyRequest, kinds: Sequence[pb.KeyRequestKind.ValueType]) -> None:
    """Refuse another way to enter than the method's own, which alone is checked there."""
    if message.kind not in kinds:
        raise _request_field("kind", f"it must be {' or '.join(map(pb.KeyRequestKind.Name, kinds))} here")
    parent_bytes = 0 if message.kind in ROOT_KINDS else FINGERPRINT_BYTES
    if len(message.parent_fingerprint) != parent_bytes:
        raise _request_field("parent_fingerprint", f"it has {parent_bytes} bytes here")


def _check_signatures(signed: pb.SignedKeyRequest, message: pb.KeyRequest) -> None:
    try:
        suite = suite_for(message.suite)
    except SuiteUnknownError as error:
        raise _request_field("suite", str(error)) from error
    if len(signed.possession) != suite.signature_bytes:
        raise invalid_field("key_request.possession", f"in this suite it has {suite.signature_bytes} bytes")
    if message.kind in ROOT_KINDS and signed.endorsement:
        raise invalid_field("key_request.endorsement", "a root has none")
    # Of which suite the parent is, its record says.
    if message.kind not in ROOT_KINDS and len(signed.endorsement) not in SIGNATURE_SIZES:
        raise invalid_field("key_request.endorsement", f"it has {' or '.join(map(str, SIGNATURE_SIZES))} bytes")


def _request_field(field: str, why: str) -> ServiceError:
    return invalid_field(f"{STATEMENT}.{field}", why)
