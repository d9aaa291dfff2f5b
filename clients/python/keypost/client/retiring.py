"""What ends: keys whose time is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.client.context import short
from keypost.client.own_watch import as_revoked, revoked_error
from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import fingerprint
from keypost.protocol.renewal import step_8_old_key_needed_until

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.client.trusting import Trust
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import StoredRecord


@dataclass(frozen=True)
class Endings:
    """Keys that end at the next queue_empty, because the stream was opened after their time.

    Attributes:
        theirs: Fingerprints of signers no longer listened to.
        mine: Fingerprints of own replaced pairs to destroy.
    """

    theirs: tuple[bytes, ...] = ()
    mine: tuple[bytes, ...] = ()


class Retiring:
    """Ends keys whose time is over.

    Args:
        context: What all parts share.
        identity: The own device.
        trust: The realm's trust.
        records: The users' records.
    """

    def __init__(self, context: Context, identity: Identity, trust: Trust, records: Records) -> None:
        self._context = context
        self._identity = identity
        self._trust = trust
        self._records = records

    async def check_self(self, *, refresh: bool = False) -> None:
        """Verify that the own key is still the one on record.

        Raises:
            DeviceKeyStolenError: the record shows a successor that is not this device's.
            KeyRevokedError: it was revoked, or a compromised one vouched for it.
        """
        own = self._identity.current
        try:
            record = await self._records.get(own.address.username, refresh=refresh)
        except RefusedError as refused:
            # Who is revoked is not shown the record that says so.
            raise as_revoked(refused, own.address) or refused from refused
        key = record.find(own.fingerprint)
        if key is not None and (key.state == pb.KEY_STATE_REVOKED or record.is_void(key)):
            raise revoked_error(own.address)

    async def is_on_record(self) -> bool:
        """Return whether the newest record of the own user that this device has shows its key as good."""
        own = self._identity.current
        record = await self._records.held(own.address.username)
        key = None if record is None else record.find(own.fingerprint)
        return key is not None and key.is_good

    async def endings(self) -> Endings:
        """Return the keys that are known to have ended (replaced ones: since T + settle) before now."""
        constants, now = (await self._trust.current()).constants, self._context.clock()

        def find(store: KeyStore) -> Endings:
            theirs: list[bytes] = []
            for username in store.records.usernames():
                record = store.records.find(username)
                if record is not None:
                    ended = _ended_keys(record, constants.settle, now)
                    theirs.extend(name for name in ended if store.records.closing_mark(name) is None)
            mine = tuple(
                pair.fingerprint
                for pair in store.key_pairs.replaced()
                if now >= step_8_old_key_needed_until(pair.replaced_time or now, constants)
            )
            return Endings(tuple(theirs), mine)

        return await self._context.store.run(find)

    async def end(self, endings: Endings) -> None:
        """End the keys, now that everything that could still be on its way to them has come."""
        constants, now = (await self._trust.current()).constants, self._context.clock()

        def end_all(store: KeyStore) -> list[bytes]:
            # What is kept came in time and may still open; whatever comes from now on keeps no key open.
            mark = max(store.waiting.newest(), store.set_aside.newest())
            store.records.close_keys((*endings.theirs, *endings.mine), now, mark)
            oldest = now - constants.age_limit
            destroyed = [name for name in endings.mine if not _is_waited_for(store, name, oldest)]
            for name in destroyed:
                store.key_pairs.destroy(name)
            return destroyed

        if not endings.theirs and not endings.mine:
            return
        for name in await self._context.store.transact(end_all):
            self._context.tell("info", "OLD_KEY_DESTROYED", f"the replaced key {short(name)} of this device is gone")
        await self._identity.reload()


def _is_waited_for(store: KeyStore, fingerprint: bytes, oldest: int) -> bool:
    """Return whether something sealed to an own key is kept since before its end, and may still open by it.

    What waits holds the key until it is settled. So does what was set aside, which a later version or another try may
    open, but only until it, or the replacement of the key, is older than the age limit: or whoever sends rubbish again
    and again would keep the key. What is sealed to no known key is not set aside for this one.

    Args:
        store: The key store.
        fingerprint: The key, 32 bytes.
        oldest: The time before which nothing that was set aside opens any more.
    """
    mark = store.records.closing_mark(fingerprint) or 0
    if store.waiting.count_sealed_to(fingerprint, b"", up_to=mark):
        return True
    if not any(
        pair.fingerprint == fingerprint and (pair.replaced_time or 0) >= oldest for pair in store.key_pairs.replaced()
    ):
        return False
    return store.set_aside.count_sealed_to(fingerprint, up_to=mark, since=oldest) > 0


def _ended_keys(record: StoredRecord, settle: int, now: int) -> list[bytes]:
    key_info = pb.KeyInfo.FromString(record.key_info)
    ended: list[bytes] = []
    for entry in pb.UserKeys.FromString(key_info.record.user_keys).entries:
        is_revoked = entry.state == pb.KEY_STATE_REVOKED
        is_settled = entry.state == pb.KEY_STATE_SUPERSEDED and now >= entry.state_time + settle
        if is_revoked or is_settled:
            request = pb.KeyRequest.FromString(entry.request.key_request)
            ended.append(fingerprint(request.public_key_der))
    return ended
