"""Between administrators' messages and what the domain works with, as ``ca.convert``."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, TypeVar

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.clock import DAY, MINUTE
from keypost.protocol.encoding import int_bytes
from keypost_services.ca.audit import Act, Action, ActorKind, AuditEntry
from keypost_services.ca.codes import id_of
from keypost_services.ca.store import AuditFilter, OneTimeCode
from keypost_services.runtime.errors import ServiceError, invalid_field
from keypost_services.runtime.requests import read_number, read_username

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost_services.ca.store import DrawnCode, RecordedKey, User, UserSummary

T = TypeVar("T")
MOST_ON_A_PAGE = 256
"""With their evidence so many entries stay below what gRPC receives by default, 4 MiB."""
USUAL_PAGE = 100
USUAL_LIFETIME = DAY
LONGEST_LIFETIME = 30 * DAY
_SEQUENCE_BYTES = 8
_HASH_BYTES = 32
_NAME_FROM = _HASH_BYTES + _SEQUENCE_BYTES
_CODE_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_LONGEST_TOKEN = 256


def read_lifetime(lifetime: int) -> int:
    """Return how long a one-time code is to be good, milliseconds; raises ServiceError INVALID_FIELD."""
    if lifetime == 0:
        return USUAL_LIFETIME
    if not MINUTE <= lifetime <= LONGEST_LIFETIME:
        raise invalid_field("lifetime", "it is from a minute to 30 days, or 0: a day")
    return lifetime


def read_page_size(size: int) -> int:
    """Return how many a page has at most; raises ServiceError INVALID_FIELD."""
    if size > MOST_ON_A_PAGE:
        raise invalid_field("page_size", f"{MOST_ON_A_PAGE} at most")
    return size or USUAL_PAGE


def read_username_token(token: str) -> str:
    """Return the username after which a page begins; raises ServiceError INVALID_FIELD."""
    if not token:
        return ""
    try:
        return read_username(_read_token(token).decode(), "page_token")
    except UnicodeDecodeError as error:
        raise _token_refused() from error


def read_sequence_token(token: str) -> int:
    """Return the number after which a page begins; raises ServiceError INVALID_FIELD."""
    if not token:
        return 0
    raw = _read_token(token)
    if len(raw) != _SEQUENCE_BYTES:
        raise _token_refused()
    return read_number(int.from_bytes(raw, "big"), "page_token")


def read_code_token(token: str) -> OneTimeCode | None:
    """Return the one-time code after which a page begins, None for the first; raises ServiceError INVALID_FIELD."""
    if not token:
        return None
    raw = _read_token(token)
    code_hash, time, name = raw[:_HASH_BYTES], raw[_HASH_BYTES:_NAME_FROM], raw[_NAME_FROM:]
    try:
        username = read_username(name.decode(), "page_token")
    except UnicodeDecodeError as error:
        raise _token_refused() from error
    return OneTimeCode(code_hash, username, read_number(int.from_bytes(time, "big"), "page_token"))


def read_code_id(request: pb.WithdrawOneTimeCodesRequest) -> bytes:
    """Return how the hash of the code begins that is meant, empty for all; raises ServiceError INVALID_FIELD."""
    if request.all:
        if request.code_id:
            raise invalid_field("code_id", "it is empty where all are meant")
        return b""
    if not _CODE_ID.fullmatch(request.code_id):
        raise invalid_field("code_id", "it is 16 hexadecimal digits in lower case, or all are meant")
    return bytes.fromhex(request.code_id)


def read_filter(request: pb.ListAuditEntriesRequest) -> AuditFilter:
    """Return which entries are wanted; raises ServiceError INVALID_FIELD."""
    for field, time in (("from_time", request.from_time), ("until_time", request.until_time)):
        if time < 0:
            raise invalid_field(field, "it is 0 or a time")
    username = read_username(request.username) if request.username else None
    return AuditFilter(username, request.from_time, request.until_time or None)


def page_of(found: Sequence[T], size: int) -> tuple[Sequence[T], T | None]:
    """Return what stands on a page, and its last one if there are more: one more than the page has was looked for."""
    page = found[:size]
    return page, page[-1] if len(found) > size else None


def username_token(last: UserSummary | None) -> str:
    """Return the token of the page after a user; empty where there is none."""
    return "" if last is None else _token(last.username.encode())


def code_token(last: DrawnCode | None) -> str:
    """Return the token of the page after a one-time code; empty where there is none."""
    if last is None:
        return ""
    return _token(last.code.code_hash + int_bytes(last.code.expire_time) + last.code.username.encode())


def sequence_token(last: AuditEntry | None) -> str:
    """Return the token of the page after an entry; empty where there is none."""
    return "" if last is None else _token(int_bytes(last.sequence))


def code_message(drawn: DrawnCode) -> pb.OneTimeCode:
    """Return a one-time code as administrators read it: by the beginning of its hash, and no more of it."""
    return pb.OneTimeCode(
        code_id=id_of(drawn.code.code_hash),
        username=drawn.code.username,
        create_time=drawn.create_time,
        actor_kind=_ACTOR_KINDS.get(drawn.actor_kind, pb.AUDIT_ACTOR_KIND_UNSPECIFIED),
        actor=drawn.actor,
        expire_time=drawn.code.expire_time,
    )


def user_message(user: User) -> pb.User:
    """Return a user as administrators read them."""
    return pb.User(
        username=user.username,
        epoch=user.epoch,
        revision=user.revision,
        reset_time=user.reset_time,
        keys=map(_key_message, user.keys),
    )


def summary_message(user: UserSummary) -> pb.UserSummary:
    """Return a user in a list."""
    return pb.UserSummary(
        username=user.username,
        epoch=user.epoch,
        revision=user.revision,
        reset_time=user.reset_time,
        good_keys=user.good_keys,
    )


def audit_message(entry: AuditEntry) -> pb.AuditEntry:
    """Return an entry of the audit log as administrators read it."""
    act = entry.act
    return pb.AuditEntry(
        sequence=entry.sequence,
        create_time=act.create_time,
        action=_ACTIONS.get(act.action, pb.AUDIT_ACTION_UNSPECIFIED),
        actor_kind=_ACTOR_KINDS.get(act.actor_kind, pb.AUDIT_ACTOR_KIND_UNSPECIFIED),
        actor=act.actor,
        username=act.username,
        device_id=act.device_id,
        fingerprint=act.fingerprint,
        revision=act.revision,
        reason=act.reason,  # type: ignore[arg-type]  # a number of the enum
        peer=act.peer,
        request_id=act.request_id,
        evidence=act.evidence,
        hash=entry.hash,
    )


def read_audit_entry(message: pb.AuditEntry) -> AuditEntry:
    """Return an entry as the CA says that it is; whether it was altered, its hash says."""
    act = Act(
        create_time=message.create_time,
        action=word_of(pb.AuditAction, message.action, "AUDIT_ACTION_"),
        actor_kind=word_of(pb.AuditActorKind, message.actor_kind, "AUDIT_ACTOR_KIND_"),
        actor=message.actor,
        username=message.username,
        device_id=message.device_id,
        fingerprint=message.fingerprint,
        revision=message.revision,
        reason=message.reason,
        peer=message.peer,
        request_id=message.request_id,
        evidence=message.evidence,
    )
    return AuditEntry(message.sequence, act, message.hash)


def word_of(kind: Any, number: int, prefix: str) -> str:
    """Return what the audit log says for a value of an enum; of a later version's its number."""
    value = kind.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else str(value.name).removeprefix(prefix).lower()


_ACTIONS = {str(action): pb.AuditAction.Value(f"AUDIT_ACTION_{action.name}") for action in Action}
_ACTOR_KINDS = {str(kind): pb.AuditActorKind.Value(f"AUDIT_ACTOR_KIND_{kind.name}") for kind in ActorKind}


def _key_message(key: RecordedKey) -> pb.UserKey:
    return pb.UserKey(
        device_id=key.device_id,
        fingerprint=key.fingerprint,
        suite=key.suite,
        kind=key.kind,
        epoch=key.epoch,
        revision=key.revision,
        parent_fingerprint=key.parent_fingerprint,
        enter_time=key.enter_time,
        expire_time=key.expire_time,
        state=key.state,
        state_time=key.state_time,
        reason=key.reason,
    )


def _token(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


def _read_token(token: str) -> bytes:
    """Return what is in a token; one content has one token."""
    try:
        content = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _token_refused() from error
    if len(token) > _LONGEST_TOKEN or _token(content) != token:
        raise _token_refused()
    return content


def _token_refused() -> ServiceError:
    return invalid_field("page_token", "it is the next_page_token of an answer, or empty")
