"""A first key that was asked for: whether the CA recorded it, and what the device becomes by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.context import short
from keypost.client.key_requests import BEGIN_ANEW, INVITATION, begin_anew, fill_request
from keypost.client.own_watch import revoked_error
from keypost.client.renewing import KEY_REPLACED, KEY_REVOKED
from keypost.client.stopping import is_replaced
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import KeyUnknownError
from keypost.protocol.key_info import REVOKED
from keypost.protocol.renewal import step_4_upload

if TYPE_CHECKING:
    from keypost.ca.v1.ca_service_pb2 import BeginRenewalResponse
    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.keystore.port import KeyStore
    from keypost.protocol.errors import DeviceKeyStolenError
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.transport.ca_client import CaClient

KEY_ALREADY_KNOWN = "KEY_ALREADY_KNOWN"


class FirstKey:
    """Makes the first key of this device its current one, or finds out that it ended before the device knew it.

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

    async def finish(self, pair: DeviceKeyPair, record: KeyRecord) -> Address:
        """Make the pending pair the current one, as the record shows it, and return the own address.

        Raises:
            DeviceKeyStolenError: the record shows a successor, and this device has asked for none.
            KeyRevokedError: it was recorded, and revoked since.
            KeyUnknownError: the record does not show it as good.
        """
        key = record.get(pair.fingerprint)
        if self._identity.ring.current is None and is_replaced(record, key.address, pair):
            raise await self._stop(pair, key)
        if key.state == REVOKED or record.is_void(key):
            raise revoked_error(key.address)
        if not key.is_good:
            raise KeyUnknownError("the CA's record does not show the new key as good", username=record.username)
        await self._promote(pair, key)
        await self._records.watch.look(record)
        self._context.negotiation(
            1,
            key.address,
            username=record.username,
            suite=pair.suite.name,
            key_bits=pair.suite.key_bits,
            fingerprint=short(pair.fingerprint),
            public_key_bytes=len(pair.public_key_der),
            revision=record.revision,
            expire_time=key.expire_time,
        )
        return key.address

    async def is_recorded(self, pair: DeviceKeyPair) -> bool:
        """Ask the CA, who alone knows, whether a first key that this device finds in no record was recorded.

        Returns:
            Whether it was, and is good: who does not show it is behind.

        Raises:
            DeviceKeyStolenError: somebody renewed it: this device stops.
            KeyRevokedError: it was revoked.
            RefusedError, UnreachableError: there is no answer to go by.
        """
        refused = await self._refusal_of_itself(pair)
        if refused is None:
            return False
        ring = self._identity.ring
        if refused.reason == KEY_REPLACED:
            # Another call may have found it recorded meanwhile, and renewed it itself.
            if ring.current is None and ring.pending is not None and ring.pending.fingerprint == pair.fingerprint:
                raise await self._stop(pair, None) from refused
        elif refused.reason == KEY_REVOKED:
            raise revoked_error(pair.address) from refused
        elif refused.retriable:
            raise refused
        return refused.reason in {KEY_ALREADY_KNOWN, KEY_REPLACED}

    async def _refusal_of_itself(self, pair: DeviceKeyPair) -> RefusedError | None:
        """Return why the CA does not renew a key by itself.

        It records no key twice, so nothing changes, whatever it says; and it says first, to the holder of a key alone,
        that this key is replaced or revoked.
        """
        me, renew = pair.address, pb.KEY_REQUEST_KIND_RENEW

        async def ask(begun: BeginRenewalResponse) -> RefusedError | None:
            request = fill_request(self._context, pair, begun, renew, pair.fingerprint)
            try:
                await self._ca.renew(step_4_upload(request, pair, pair))
            except RefusedError as refused:
                if refused.reason in BEGIN_ANEW:
                    raise
                return refused
            return None

        return await begin_anew(lambda: self._ca.begin_renewal(me.username, me.device_id), ask)

    async def _stop(self, pair: DeviceKeyPair, key: Key | None) -> DeviceKeyStolenError:
        """Stop a device whose first key somebody else has replaced while this device did not know it recorded."""
        # It becomes the device that its key made it: from then on it stops as any other, and every call says why.
        await self._promote(pair, key)
        stolen = await self._records.stopping.stop(pair.fingerprint)
        # Whoever opens the profile finds out by no call.
        self._context.tell("error", stolen.reason, str(stolen), fingerprint=pair.fingerprint.hex())
        return stolen

    async def _promote(self, pair: DeviceKeyPair, key: Key | None) -> None:
        """Make the pending pair the current one.

        Args:
            pair: The pair.
            key: It as the record shows it; None: it was asked for in one way only, and no record of it is to be had.
        """

        def promote(store: KeyStore) -> None:
            if key is not None:
                # Which of several requests for one key was recorded, the record says.
                store.key_pairs.set_key_request(pair.fingerprint, key.request.signed.SerializeToString())
            store.key_pairs.promote(pair.fingerprint, self._context.clock())
            store.profile.set_address(pair.address if key is None else key.address)
            store.profile.set_note(INVITATION, None)

        await self._context.store.transact(promote)
        await self._identity.reload()
