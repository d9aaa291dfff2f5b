"""What a device signs about its user without a new key: revocations, and the end of an announced identity reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.key_requests import ROUNDS
from keypost.client.results import RevocationReason
from keypost.errors import InvalidArgumentError, RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import KeyUnknownError
from keypost.protocol.identifiers import check_device_id
from keypost.protocol.key_info import REVOKED
from keypost.protocol.revocations import sign_reset_cancellation, sign_revocation
from keypost.protocol.validity import check_can_act

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.transport.ca_client import CaClient

REVISION_TAKEN = "REVISION_TAKEN"
REASONS = {
    RevocationReason.RETIRED: pb.REVOCATION_REASON_RETIRED,
    RevocationReason.LOST: pb.REVOCATION_REASON_LOST,
    RevocationReason.COMPROMISED: pb.REVOCATION_REASON_COMPROMISED,
}


class Revoking:
    """Signs with this device's key what ends another one, or stops a reset.

    Args:
        context: What all parts share.
        identity: The own device.
        ca: The CA.
        records: Where the own record is verified and kept.
    """

    def __init__(self, context: Context, identity: Identity, ca: CaClient, records: Records) -> None:
        self._context = context
        self._identity = identity
        self._ca = ca
        self._records = records

    async def revoke(self, device_id: str, reason: RevocationReason, since: int | None) -> KeyRecord:
        """Withdraw the key of a device of the own user; see Client.revoke."""
        check_device_id(device_id)
        check_since(since, reason, self._context.clock())
        own = self._identity.current

        async def sign(record: KeyRecord) -> pb.KeyInfo | None:
            key = _key_of(record, device_id)
            if _is_revoked(key, reason, since):
                return None
            return await self._ca.revoke(sign_revocation(self._statement(key, record, reason, since), own))

        record = await self._signed(sign)
        if _key_of(record, device_id).state != REVOKED:
            raise KeyUnknownError("the CA's record does not show the key as revoked", username=record.username)
        return record

    async def cancel_reset(self) -> KeyRecord:
        """Stop an announced identity reset; see Client.cancel_reset."""
        own = self._identity.current

        async def sign(record: KeyRecord) -> pb.KeyInfo | None:
            if not record.reset_time:
                return None
            statement = pb.ResetCancellation(
                realm=self._context.realm,
                username=own.address.username,
                device_id=own.address.device_id,
                revision=record.revision + 1,
            )
            return await self._ca.cancel_reset(sign_reset_cancellation(statement, own))

        return await self._signed(sign)

    def _statement(self, key: Key, record: KeyRecord, reason: RevocationReason, since: int | None) -> pb.Revocation:
        return pb.Revocation(
            realm=self._context.realm,
            username=record.username,
            device_id=key.address.device_id,
            fingerprint=key.fingerprint,
            reason=REASONS[reason],
            revision=record.revision + 1,
            since_time=since or 0,
        )

    async def _signed(self, sign: Callable[[KeyRecord], Awaitable[pb.KeyInfo | None]]) -> KeyRecord:
        """Return the record after ``sign``, which is called anew while another change takes the revision.

        Args:
            sign: Signs for the revision after the record's and asks the CA; None: there is nothing to do.
        """
        min_revision = 0
        for last in range(ROUNDS - 1, -1, -1):
            record = await self._own_record(min_revision)
            try:
                key_info = await sign(record)
            except RefusedError as refused:
                if refused.reason != REVISION_TAKEN or not last:
                    raise
                min_revision = record.revision + 1
                continue
            return record if key_info is None else await self._records.learn(record.username, key_info)
        raise AssertionError

    async def _own_record(self, min_revision: int) -> KeyRecord:
        own = self._identity.current
        record = await self._records.get(own.address.username, min_revision=min_revision, refresh=True)
        check_can_act(record.get(own.fingerprint), record, self._context.clock())
        return record


def check_since(since: int | None, reason: RevocationReason, now: int) -> None:
    """Accept since when a key may have been in other hands, Unix milliseconds; None: since now.

    Raises:
        InvalidArgumentError: only a compromised key has such a time, and it is past.
    """
    if since is None:
        return
    if isinstance(since, bool) or not isinstance(since, int) or not 1 <= since <= now:
        raise InvalidArgumentError("since when a key is compromised is a time in the past", field="since")
    if reason is not RevocationReason.COMPROMISED:
        raise InvalidArgumentError("only a compromised key has a time since when", field="since")


def _key_of(record: KeyRecord, device_id: str) -> Key:
    """Return the newest key of a device: the one that is good, if one is.

    Raises:
        InvalidArgumentError: the record names no such device.
    """
    keys = [key for key in record.keys if key.address.device_id == device_id]
    if not keys:
        raise InvalidArgumentError(f"{record.username} has no device {device_id}", field="device_id")
    return keys[-1]


def _is_revoked(key: Key, reason: RevocationReason, since: int | None) -> bool:
    """Return whether the record says so already: then only the answer was lost, or another device was quicker."""
    if key.state != REVOKED or key.reason != REASONS[reason]:
        return False
    return since is None or key.state_time <= since
