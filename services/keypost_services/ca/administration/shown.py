"""Users and keys as ``keypost-ca admin`` shows them: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost_services.ca.administration.convert import word_of
from keypost_services.ca.printing import shown_time

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN_DIGITS = 8


def facts_of_code(code: pb.OneTimeCode) -> dict[str, Any]:
    """Return a one-time code for machines; who drew it is empty where nobody knows."""
    return {
        "code_id": code.code_id,
        "username": code.username,
        "create_time": code.create_time,
        "actor_kind": _drawn_by(code),
        "actor": code.actor,
        "expire_time": code.expire_time,
    }


def line_of_code(code: pb.OneTimeCode) -> str:
    """Return a one-time code for people, in a line."""
    by = f" by {_drawn_by(code)} {code.actor}".rstrip() if code.actor_kind else ""
    made = f"made {shown_time(code.create_time)}{by}, " if code.create_time else ""
    return f"{code.username}  {code.code_id}  {made}expires {shown_time(code.expire_time)}"


def facts_of_summary(user: pb.UserSummary) -> dict[str, Any]:
    """Return a user of a list, for machines."""
    return {
        "username": user.username,
        "epoch": user.epoch,
        "revision": user.revision,
        "good_keys": user.good_keys,
        "reset_time": user.reset_time,
    }


def line_of_summary(user: pb.UserSummary) -> str:
    """Return a user of a list, in a line."""
    keys = "1 good key" if user.good_keys == 1 else f"{user.good_keys} good keys"
    line = f"{user.username}  {keys}, epoch {user.epoch}, revision {user.revision}"
    return f"{line}{_reset_of(user.reset_time)}"


def facts_of_user(user: pb.User) -> dict[str, Any]:
    """Return a user for machines: fingerprints in hexadecimal digits."""
    return {
        "username": user.username,
        "epoch": user.epoch,
        "revision": user.revision,
        "reset_time": user.reset_time,
        "keys": [_facts_of_key(key) for key in user.keys],
    }


def lines_of_user(user: pb.User) -> Iterator[str]:
    """Yield a user for people: one line for the user, and one a key."""
    yield f"{user.username}: epoch {user.epoch}, revision {user.revision}{_reset_of(user.reset_time)}"
    for key in user.keys:
        yield f"  {line_of_key(key)}"


def line_of_key(key: pb.UserKey) -> str:
    """Return a key for people, in a line."""
    state = state_of(key)
    since = "expires" if key.state == keys_pb.KEY_STATE_GOOD else "since"
    time = key.expire_time if key.state == keys_pb.KEY_STATE_GOOD else key.state_time
    reason = f" ({reason_of(key)})" if key.reason else ""
    return f"{key.device_id}  {key.fingerprint.hex()[:_SHOWN_DIGITS]}  {state}{reason}, {since} {shown_time(time)}"


def state_of(key: pb.UserKey) -> str:
    """Return the state of a key as a word."""
    return keys_pb.KeyState.Name(key.state).removeprefix("KEY_STATE_").lower()


def reason_of(key: pb.UserKey) -> str:
    """Return why a key was revoked, as a word; empty if it was not."""
    if not key.reason:
        return ""
    return keys_pb.RevocationReason.Name(key.reason).removeprefix("REVOCATION_REASON_").lower()


def _drawn_by(code: pb.OneTimeCode) -> str:
    """Return how the CA knows who drew a code, as the audit log has it; empty if it does not."""
    return word_of(pb.AuditActorKind, code.actor_kind, "AUDIT_ACTOR_KIND_") if code.actor_kind else ""


def _reset_of(reset_time: int) -> str:
    return f"; an identity reset may take place from {shown_time(reset_time)} on" if reset_time else ""


def _facts_of_key(key: pb.UserKey) -> dict[str, Any]:
    return {
        "device_id": key.device_id,
        "fingerprint": key.fingerprint.hex(),
        "suite": keys_pb.Suite.Name(key.suite).removeprefix("SUITE_"),
        "kind": keys_pb.KeyRequestKind.Name(key.kind).removeprefix("KEY_REQUEST_KIND_").lower(),
        "epoch": key.epoch,
        "revision": key.revision,
        "parent_fingerprint": key.parent_fingerprint.hex(),
        "enter_time": key.enter_time,
        "expire_time": key.expire_time,
        "state": state_of(key),
        "state_time": key.state_time,
        "reason": reason_of(key),
    }
