"""What the audit log tells of a change: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keys.v1 import realm_trust_pb2 as trust_pb
from keypost.protocol.encoding import fingerprint
from keypost_services.ca.audit import Act, Action, ActorKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keypost_services.ca.audit import Actor, Origin
    from keypost_services.ca.store import Change, InstalledTrust, OneTimeCode, RecordedKey

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
    return replace(_of_codes(Action.CODE_MADE, code.username, actor, now, origin), evidence=code.code_hash)


def codes_withdrawn(username: str, actor: Actor, now: int, origin: Origin) -> Act:
    """Return how it is told of each one-time code that it was withdrawn; the store adds its hash."""
    return _of_codes(Action.CODE_WITHDRAWN, username, actor, now, origin)


def trust_installed(installed: InstalledTrust, before: bytes) -> list[Act]:
    """Return how a trust statement that is taken up is told: it, then each key of the realm that it makes another.

    Args:
        installed: The statement.
        before: The evidence of the statement that it is compared with; empty: it is the first, and all keys are new.
    """
    old = trust_pb.RealmTrust.FromString(trust_pb.SignedRealmTrust.FromString(before).realm_trust)
    new = trust_pb.RealmTrust.FromString(installed.signed.realm_trust)
    evidence = installed.signed.SerializeToString(deterministic=True)
    first = _of_the_realm(installed, Action.TRUST_INSTALLED, installed.hash)
    changed = [*_changed_root_keys(old, new), *_changed_record_keys(old, new)]
    keys = [_of_the_realm(installed, action, fingerprint(public_key_der)) for action, public_key_der in changed]
    return [replace(first, evidence=evidence), *keys]


def _of_codes(action: Action, username: str, actor: Actor, now: int, origin: Origin) -> Act:
    return Act(
        create_time=now,
        action=action,
        actor_kind=actor.kind,
        actor=actor.name,
        username=username,
        peer=origin.peer,
        request_id=origin.request_id,
    )


def _changed_root_keys(old: trust_pb.RealmTrust, new: trust_pb.RealmTrust) -> Iterator[tuple[Action, bytes]]:
    before, after = (dict.fromkeys(key.public_key_der for key in one.root_keys) for one in (old, new))
    yield from ((Action.ROOT_KEY_ADDED, key) for key in after if key not in before)
    yield from ((Action.ROOT_KEY_REMOVED, key) for key in before if key not in after)


def _changed_record_keys(old: trust_pb.RealmTrust, new: trust_pb.RealmTrust) -> Iterator[tuple[Action, bytes]]:
    before, after = _times(old), _times(new)
    yield from ((Action.RECORD_KEY_ADDED, key) for key in after if key not in before)
    yield from ((Action.RECORD_KEY_CHANGED, key) for key in after if key in before and after[key] != before[key])
    yield from ((Action.RECORD_KEY_RETIRED, key) for key in before if key not in after)


def _times(statement: trust_pb.RealmTrust) -> dict[bytes, tuple[int, int]]:
    """Return when each record key of a statement counts, by its SubjectPublicKeyInfo."""
    return {key.public_key_der: (key.from_time, key.until_time) for key in statement.record_keys}


def _of_the_realm(installed: InstalledTrust, action: Action, of: bytes) -> Act:
    return Act(
        create_time=installed.time,
        action=action,
        actor_kind=ActorKind.ROOT_KEY,
        actor=installed.signed.root_key_fingerprint.hex(),
        username="",
        fingerprint=of,
        revision=installed.sequence,
        peer=installed.origin.peer,
        request_id=installed.origin.request_id,
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
