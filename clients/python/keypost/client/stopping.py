"""A device whose key somebody else has renewed: it stops for good, across restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.errors import DeviceKeyStolenError
from keypost.protocol.key_info import SUPERSEDED

if TYPE_CHECKING:
    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.keystore.port import KeyStore
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair

STOLEN = "device-key-stolen"
"""The note of a device that has stopped: the fingerprint of the key that showed it."""


class Stopping:
    """Finds out from the own user's record whether somebody else renewed this device's key, and stops it then.

    Args:
        context: What all parts share.
        identity: The own device.
    """

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity
        self._stolen: bool | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether this device is known to have stopped."""
        return bool(self._stolen)

    async def check_not_stolen(self) -> None:
        """Raise DeviceKeyStolenError if this device has stopped for good."""
        if self._stolen is None:
            note = await self._context.store.run(lambda store: store.profile.note(STOLEN))
            self._stolen = note is not None
        if self._stolen:
            raise _stolen_error()

    async def check_own(self, record: KeyRecord) -> None:
        """Stop this device if a verified record shows that somebody else renewed its key.

        Raises:
            DeviceKeyStolenError: it does.
        """
        ring = self._identity.ring
        if ring.address is None or ring.current is None or record.username != ring.address.username:
            return
        if (name := _foreign_successor(record, ring.address, ring.current, ring.pending)) is not None:
            raise await self.stop(name)

    async def stop(self, fingerprint: bytes) -> DeviceKeyStolenError:
        """Stop this device for good, across restarts, and return the error that says so.

        Args:
            fingerprint: The key that shows it, 32 bytes.
        """
        self._stolen = True
        await self._context.store.run(_note_stolen, fingerprint)
        return _stolen_error()

    def begin_anew(self) -> None:
        """Let go of a device that has stopped: the profile enrols anew."""
        self._stolen = None


def _foreign_successor(
    record: KeyRecord, me: Address, current: DeviceKeyPair, pending: DeviceKeyPair | None
) -> bytes | None:
    """Return the key that shows that somebody else renewed this device's, if one does."""
    mine = {pair.fingerprint for pair in (current, pending) if pair is not None}
    for key in record.keys:
        if key.address == me and key.is_good and key.fingerprint not in mine:
            return key.fingerprint
    own = record.find(current.fingerprint)
    if own is None or own.state != SUPERSEDED:
        return None
    # The successor is not good any more, or not shown: it has to be the one that this device asked for.
    asked_for = None if pending is None else record.find(pending.fingerprint)
    is_ours = asked_for is not None and asked_for.request.parent_fingerprint == own.fingerprint
    return None if is_ours else own.fingerprint


def is_replaced(record: KeyRecord, me: Address, first: DeviceKeyPair) -> bool:
    """Return whether somebody renewed the key of a device that has asked for its first alone."""
    return _foreign_successor(record, me, first, None) is not None


def _note_stolen(store: KeyStore, fingerprint: bytes) -> None:
    store.profile.set_note(STOLEN, fingerprint)


def _stolen_error() -> DeviceKeyStolenError:
    """Return the error that stops this device."""
    return DeviceKeyStolenError(
        "somebody else renewed this device's key: this device has stopped; unless you restored its backup elsewhere, "
        "tell your administrator, and have the device revoked"
    )
