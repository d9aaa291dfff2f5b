"""Renewal: the source document's eight steps, and when the old key may go."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from keypost.client.context import short
from keypost.client.key_requests import (
    fill_request,
    generate,
    request_key,
    write_pending,
)
from keypost.clock import MINUTE
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import DeviceKeyStolenError, KeyUnknownError
from keypost.protocol.renewal import step_4_upload, step_8_old_key_needed_until

if TYPE_CHECKING:
    from keypost.ca.v1 import ca_service_pb2
    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.key_requests import Begun
    from keypost.client.records import Records
    from keypost.client.trusting import Trust
    from keypost.keystore.port import KeyStore
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost.transport.ca_client import CaClient

KEY_REPLACED = "KEY_REPLACED"
RETRY_AFTER = 5 * MINUTE
"""How long after an automatic renewal failed the next is tried."""


class Renewing:
    """Replaces the key of this device by its successor.

    Args:
        context: What all parts share.
        identity: The own device.
        ca: The CA.
        records: Where the own record is verified and kept.
        trust: The realm's trust.
    """

    def __init__(self, context: Context, identity: Identity, ca: CaClient, records: Records, trust: Trust) -> None:
        self._context = context
        self._identity = identity
        self._ca = ca
        self._records = records
        self._trust = trust
        self._lock = asyncio.Lock()
        self._finishing = asyncio.Lock()
        self._tried_time: int | None = None

    async def renew(self) -> Key:
        """Renew the key pair and return the new key as the record shows it; see Client.renew."""
        async with self._lock:
            await self._records.check_not_stolen()
            old = self._identity.current
            pending = self._identity.ring.pending
            if pending is not None and (key := await self._recorded(pending)) is not None:
                return await self._finish(pending, old, key)
            return await self._begin(old, pending)

    async def renew_if_due(self) -> None:
        """Renew when two thirds of the lifetime are over; a failure is reported and tried again later.

        Raises:
            DeviceKeyStolenError: this device has stopped.
        """
        now = self._context.clock()
        tried = self._tried_time
        if self._lock.locked() or (tried is not None and tried <= now < tried + RETRY_AFTER):
            return
        try:
            if not await self._is_due(now):
                return
            self._tried_time = now
            await self.renew()
        except DeviceKeyStolenError:
            raise
        except KeypostError as error:
            self._context.tell("warning", error.reason, f"the automatic renewal failed, to be tried again: {error}")

    async def resume(self) -> None:
        """Finish a renewal whose answer was lost, if the CA has recorded the pending key."""
        if not self._lock.locked():
            async with self._lock:
                await self.settle()

    async def settle(self) -> None:
        """Act with the pending key from now on if the CA has recorded it, even if its answer is still on its way."""
        ring = self._identity.ring
        if ring.current is None or ring.pending is None:
            return
        try:
            key = await self._recorded(ring.pending)
        except (RefusedError, UnreachableError):
            # Nobody to ask: the next call tries again.
            return
        if key is not None:
            await self._finish(ring.pending, ring.current, key)

    async def _is_due(self, now: int) -> bool:
        own = self._identity.current
        held = await self._records.held(own.address.username)
        key = None if held is None else held.find(own.fingerprint)
        return key is not None and now >= key.state_time + (key.expire_time - key.state_time) * 2 // 3

    async def _recorded(self, pending: DeviceKeyPair) -> Key | None:
        """Return the pending key if the record shows it: then only the answer was lost."""
        try:
            record = await self._records.get_as_pending(pending.address.username)
        except RefusedError as refused:
            if refused.retriable:
                raise
            # A key that is not recorded may not ask.
            return None
        return record.find(pending.fingerprint)

    async def _begin(self, old: DeviceKeyPair, new: DeviceKeyPair | None) -> Key:
        async def ask(begun: ca_service_pb2.BeginRenewalResponse) -> pb.KeyInfo:
            nonlocal new
            if new is None:
                new = await generate(self._context, old.address, old.suite)
                facts: dict[str, str | int] = {"suite": new.suite.name, "key_bits": new.suite.key_bits}
                self._context.renewal(1, new.address, fingerprint=short(new.fingerprint), **facts)
            signed = self._sign(begun, new, old)
            await write_pending(self._context, new, signed)
            await self._identity.reload()
            return await self._ca.renew(signed)

        me = old.address
        try:
            begin = partial(self._ca.begin_renewal, me.username, me.device_id)
            key_info = await request_key(self._context, self._identity, begin, ask)
        except RefusedError as refused:
            if refused.reason == KEY_REPLACED:
                raise await self._records.stop(old.fingerprint) from refused
            raise
        if new is None:
            raise AssertionError
        return await self._confirmed(new, old, await self._records.learn(me.username, key_info))

    def _sign(self, begun: Begun, new: DeviceKeyPair, old: DeviceKeyPair) -> pb.SignedKeyRequest:
        context, actor = self._context, old.address
        request = fill_request(context, new, begun, pb.KEY_REQUEST_KIND_RENEW, old.fingerprint)
        signed = step_4_upload(request, new, old)
        hashed = old.suite.endorsement_hash(signed.key_request, new.public_key_der)
        context.renewal(2, actor, hash_bytes=len(hashed), public_key_bytes=len(new.public_key_der))
        context.renewal(3, actor, signature_bytes=len(signed.endorsement), old_fingerprint=short(old.fingerprint))
        context.renewal(
            4, actor, request_bytes=len(signed.key_request), expire_time=request.expire_time, revision=request.revision
        )
        return signed

    async def _confirmed(self, new: DeviceKeyPair, old: DeviceKeyPair, record: KeyRecord) -> Key:
        key = record.get(new.fingerprint)
        if not key.is_good:
            raise KeyUnknownError("the CA's record does not show the new key as good", username=record.username)
        facts: dict[str, str | int] = {"fingerprint": short(new.fingerprint), "revision": record.revision}
        for step in (5, 6, 7):
            self._context.renewal(step, "ca", **facts)
        return await self._finish(new, old, key)

    async def _finish(self, new: DeviceKeyPair, old: DeviceKeyPair, key: Key) -> Key:
        async with self._finishing:
            if self._identity.current.fingerprint != new.fingerprint:
                await self._promote(new, old, key.state_time)
        return key

    async def _promote(self, new: DeviceKeyPair, old: DeviceKeyPair, replaced_time: int) -> None:

        def promote(store: KeyStore) -> None:
            store.key_pairs.promote(new.fingerprint, replaced_time)

        await self._context.store.run(promote)
        await self._identity.reload()
        trust = await self._trust.current()
        self._context.renewal(
            8,
            new.address,
            fingerprint=short(new.fingerprint),
            old_fingerprint=short(old.fingerprint),
            old_key_kept_until=step_8_old_key_needed_until(replaced_time, trust.constants),
        )
