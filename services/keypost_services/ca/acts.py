"""What the audit log tells of a change: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.audit import Act, Action

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keypost_services.ca.audit import Actor, Origin
    from keypost_services.ca.store import Change, OneTimeCode, RecordedKey

_ENTERED = {
    pb.KEY_REQUEST_KIND_ENROLL: Action.ENROLLED,
    pb.KEY_REQUEST_KIND_APPROVE: Action.APPROVED,
    pb.KEY_REQUEST_KIND_RENEW: Action.RENEWED,
    pb.KEY_REQUEST_KIND_RESET: Action.RESET_DONE,
}


def acts_of(change: Change, devices: Mapping[bytes, str]) -> list[Act]:
    """Return what a change is told as: the key that entered, each that was revoked, the reset; at least one.

    Args:
        change: The change.
        devices: The device of each key that ends, by fingerprint.
    """
    acts = [*_entering(change), *_revoked(change, devices)] or [_of_the_reset(change)]
    evidence = change.actor.evidence if change.key is None else _evidence_of(change.key)
    return [replace(acts[0], evidence=evidence), *acts[1:]]


def code_made(code: OneTimeCode, actor: Actor, now: int, origin: Origin) -> Act:
    """Return how the making of a one-time code is told: by its hash, of which nobody finds the code."""
    return Act(
        create_time=now,
        action=Action.CODE_MADE,
        actor_kind=actor.kind,
        actor=actor.name,
        username=code.username,
        peer=origin.peer,
        request_id=origin.request_id,
        evidence=code.code_hash,
    )


def _entering(change: Change) -> Iterator[Act]:
    if (key := change.key) is not None:
        yield _act(change, _ENTERED[key.kind], device_id=key.device_id, fingerprint=key.fingerprint)


def _revoked(change: Change, devices: Mapping[bytes, str]) -> Iterator[Act]:
    # What a renewal supersedes, its request names.
    for ending in change.endings:
        if ending.state == pb.KEY_STATE_REVOKED:
            key = {"device_id": devices[ending.fingerprint], "fingerprint": ending.fingerprint}
            yield _act(change, Action.REVOKED, reason=ending.reason, **key)


def _of_the_reset(change: Change) -> Act:
    if not change.reset_time:
        return _act(change, Action.RESET_CANCELLED)
    due = change.reset_time <= change.time
    return _act(change, Action.RESET_ALLOWED if due else Action.RESET_ANNOUNCED)


def _act(change: Change, action: Action, **what: Any) -> Act:
    return Act(
        create_time=change.time,
        action=action,
        actor_kind=change.actor.kind,
        actor=change.actor.name,
        username=change.username,
        revision=change.revision,
        peer=change.origin.peer,
        request_id=change.origin.request_id,
        **what,
    )


def _evidence_of(key: RecordedKey) -> bytes:
    signed = pb.SignedKeyRequest(key_request=key.key_request, possession=key.possession, endorsement=key.endorsement)
    return signed.SerializeToString(deterministic=True)
