"""What devices sign for the CA, as they would, with changes to any field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.protocol.key_requests import DeviceKeyPair

KEY_LIFETIME = 90 * DAY
S = TypeVar("S", pb.KeyRequest, pb.Revocation, pb.ResetCancellation)


def key_request(realm: str, pair: DeviceKeyPair, begun: Any, changes: Mapping[str, Any]) -> pb.KeyRequest:
    """Return the request that a device would make after ``begun``: an enrolment."""
    request = pb.KeyRequest(
        realm=realm,
        username=pair.address.username,
        device_id=pair.address.device_id,
        suite=pb.Suite.ValueType(pair.suite.id),
        public_key_der=pair.public_key_der,
        expire_time=begun.current_time + KEY_LIFETIME,
        kind=pb.KEY_REQUEST_KIND_ENROLL,
        epoch=begun.epoch,
        revision=begun.next_revision,
        ca_nonce=begun.ca_nonce,
    )
    return _changed(request, changes)


def revocation(realm: str, key: DeviceKeyPair, revision: int, changes: Mapping[str, Any]) -> pb.Revocation:
    """Return the withdrawal of a key as lost."""
    statement = pb.Revocation(
        realm=realm,
        username=key.address.username,
        device_id=key.address.device_id,
        fingerprint=key.fingerprint,
        reason=pb.REVOCATION_REASON_LOST,
        revision=revision,
    )
    return _changed(statement, changes)


def cancellation(realm: str, signer: DeviceKeyPair, revision: int, changes: Mapping[str, Any]) -> pb.ResetCancellation:
    """Return the cancellation of an identity reset by a device."""
    statement = pb.ResetCancellation(
        realm=realm,
        username=signer.address.username,
        device_id=signer.address.device_id,
        revision=revision,
    )
    return _changed(statement, changes)


def _changed(statement: S, changes: Mapping[str, Any]) -> S:
    for name, value in changes.items():
        setattr(statement, name, value)
    return statement
