"""Renewal: the source document's eight steps, and when the old key may go."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from keypost.client.context import short
from keypost.client.key_requests import (
    fill_request,
    generate,
    request_key,
    write_pending,
)
from keypost.client.own_watch import revoked_error, says_replaced
from keypost.clock import MINUTE
from keypost.errors import KeypostError, RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.keystore.errors import BackupError
from keypost.protocol.errors import DeviceKeyStolenError, KeyUnknownError
from keypost.protocol.renewal import step_4_upload, step_8_old_key_needed_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost.ca.v1 import ca_service_pb2
    from keypost.client.backing_up import BackingUp
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
KEY_REVOKED = "KEY_REVOKED"
RETRY_AFTER = 5 * MINUTE
"""How long after an automatic renewal failed the next is tried."""


class Due(Enum):
    """How a renewal is due."""

    IN_TIME = "in time"
    URGENT = "urgent"
    """The key expires soon: the renewal waits for a backup no longer."""


class Renewing:
    """Replaces the key of this device by its successor.

    Args:
        context: What all parts share.
        identity: The own device.
        ca: The CA.
        records: Where the own record is verified and kept.
        trust: The realm's trust.
        backing_up: Rewrites the backup that is kept.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        ca: CaClient,
        records: Records,
        trust: Trust,
        backing_up: BackingUp,
    ) -> None:
        self._context = context
        self._identity = identity
        self._ca = ca
        self._records = records
        self._trust = trust
        self._backing_up = backing_up
        self._lock = asyncio.Lock()
        self._finishing = asyncio.Lock()
        self._asked: bytes | None = None
        """The key that the CA was asked for, while its answer is awaited."""
        self._tried_time: int | None = None

    async def renew(self, *, backup_may_fail: bool = False) -> Key:
        """Renew the key pair and return the new key as the record shows it; see Client.renew.

        Args:
            backup_may_fail: Renew even if the backup that is kept cannot be rewritten, and tell that.
        """
        async with self._lock:
            await self._records.stopping.check_not_stolen()
            old = self._identity.current
            pending = self._identity.ring.pending
            if pending is not None and (key := await self._recorded(pending)) is not None:
                return await self._finish(pending, old, key)
            return await self._begin(old, pending, backup_may_fail=backup_may_fail)

    async def take_over(self) -> Key:
        """Renew to a key that no other copy of this device has, and return it.

        A pair that was pending in the backup may be pending in another copy too: it is recorded first, by whichever of
        them, and then replaced.

        Raises:
            DeviceKeyStolenError: another copy has gone on without this one.
        """
        if self._identity.ring.pending is not None:
            await self.renew()
        return await self.renew()

    @asynccontextmanager
    async def asking_whether_replaced(self) -> AsyncIterator[None]:
        """If a service says within the block that this device's key was replaced, ask the CA, who alone knows.

        Asking is trying to renew: if the service was wrong, that does no harm.

        Raises:
            DeviceKeyStolenError: it was, by a key that is not this device's.
        """
        try:
            yield
        except RefusedError as refused:
            if says_replaced(refused) and self._identity.ring.current is not None and self._may_try():
                self._tried_time = self._context.clock()
                with suppress(RefusedError, UnreachableError):
                    await self.renew(backup_may_fail=True)
            raise

    async def renew_if_due(self) -> None:
        """Renew when two thirds of the lifetime are over; a failure is reported and tried again later.

        Raises:
            DeviceKeyStolenError: this device has stopped.
        """
        now = self._context.clock()
        if not self._may_try():
            return
        try:
            if (due := await self._due(now)) is None:
                return
            self._tried_time = now
            await self.renew(backup_may_fail=due is Due.URGENT)
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

    def _may_try(self) -> bool:
        now, tried = self._context.clock(), self._tried_time
        return not self._lock.locked() and not (tried is not None and tried <= now < tried + RETRY_AFTER)

    async def _due(self, now: int) -> Due | None:
        own = self._identity.current
        held = await self._records.held(own.address.username)
        key = None if held is None else held.find(own.fingerprint)
        if key is None:
            return None
        lifetime, age = key.expire_time - key.state_time, now - key.state_time
        if age < lifetime * 2 // 3:
            return None
        return Due.URGENT if age >= lifetime * 9 // 10 else Due.IN_TIME

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

    async def _begin(self, old: DeviceKeyPair, new: DeviceKeyPair | None, *, backup_may_fail: bool) -> Key:
        backed_up = b""

        async def ask(begun: ca_service_pb2.BeginRenewalResponse) -> pb.KeyInfo:
            nonlocal new, backed_up
            if new is None:
                new = await generate(self._context, old.address, old.suite)
                facts: dict[str, str | int] = {"suite": new.suite.name, "key_bits": new.suite.key_bits}
                self._context.renewal(1, new.address, fingerprint=short(new.fingerprint), **facts)
            signed = self._sign(begun, new, old)
            await write_pending(self._context, new, signed)
            await self._identity.reload()
            if backed_up != new.fingerprint:
                # Now, with both pairs in it: whatever becomes of this request, the backup can go on from it.
                await self._back_up(may_fail=backup_may_fail)
                backed_up = new.fingerprint
            self._asked = new.fingerprint
            return await self._ca.renew(signed)

        me = old.address
        try:
            begin = partial(self._ca.begin_renewal, me.username, me.device_id)
            key_info = await request_key(self._context, self._identity, begin, ask)
        except RefusedError as refused:
            if refused.reason == KEY_REPLACED:
                raise await self._records.stopping.stop(old.fingerprint) from refused
            if refused.reason == KEY_REVOKED:
                raise revoked_error(me) from refused
            raise
        else:
            if new is None:
                raise AssertionError
            return await self._confirmed(new, old, await self._records.learn(me.username, key_info))
        finally:
            self._asked = None

    async def _back_up(self, *, may_fail: bool) -> None:
        try:
            await self._backing_up.before_renewal()
        except BackupError as error:
            if not may_fail:
                raise
            sentence = f"the key is renewed, but the backup is older than it now: {error}"
            self._context.tell("error", error.reason, sentence)

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
        return await self._finish(new, old, key)

    async def _finish(self, new: DeviceKeyPair, old: DeviceKeyPair, key: Key) -> Key:
        async with self._finishing:
            if self._identity.current.fingerprint != new.fingerprint:
                await self._promote(new, old, key)
        return key

    async def _promote(self, new: DeviceKeyPair, old: DeviceKeyPair, key: Key) -> None:
        # Where the answer is still awaited, a look-up may have shown sooner what the CA did: its steps come before 8.
        for step in (5, 6, 7) if self._asked == new.fingerprint else ():
            self._context.renewal(step, "ca", fingerprint=short(new.fingerprint), revision=key.request.revision)
        replaced_time = key.state_time

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
