"""The own user's record, watched: what others have changed in it (docs/spec.md, "Continuity")."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import KeyRevokedError
from keypost.transport.remote_service import TOKEN_REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.errors import KeypostError
    from keypost.keystore.port import KeyStore
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord

SEEN = "own-record-seen"
"""The note with what the application was told of the own record."""
REVOKED_CAUSES = frozenset({"KEY_REVOKED", "KEY_VOID"})
"""Why a service refuses the token of a device that is to stop."""


@dataclass(frozen=True)
class Seen:
    """What the application knows of the own record.

    Attributes:
        devices: The devices that were there.
        reset_time: The identity reset that was announced; 0: none.
    """

    devices: frozenset[str] = field(default_factory=frozenset)
    reset_time: int = 0

    @classmethod
    def of(cls, record: KeyRecord) -> Seen:
        """Return what whoever has seen ``record`` knows."""
        return cls(frozenset(key.address.device_id for key in record.keys), record.reset_time)

    def to_bytes(self) -> bytes:
        """Return it for a note."""
        return json.dumps({"devices": sorted(self.devices), "reset_time": self.reset_time}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Seen:
        """Return what :meth:`to_bytes` wrote."""
        value = json.loads(data)
        return cls(frozenset(value["devices"]), value["reset_time"])


class OwnWatch:
    """Tells what changed in the own user's record, each thing once, across restarts too.

    What breaks a rule (a device that nobody vouched for, another identity) never gets here: it is an error of its own.

    Args:
        context: What all parts share.
        identity: The own device.
    """

    def __init__(self, context: Context, identity: Identity) -> None:
        self._context = context
        self._identity = identity
        self._seen: Seen | None = None
        self._expected: set[bytes] = set()

    def expect(self, fingerprint: bytes) -> None:
        """Say that this device is approving a key just now: its entrance is no news."""
        self._expected.add(fingerprint)

    async def look(self, record: KeyRecord) -> None:
        """Tell what is new in a verified record, if it is the own user's."""
        ring = self._identity.ring
        if ring.address is None or ring.current is None or record.username != ring.address.username:
            return
        before, now = await self._before(), Seen.of(record)
        if before == now:
            return
        if before is not None:
            self._tell_devices(_entered(record, before), ring.address, record)
        self._tell_reset(record, 0 if before is None else before.reset_time)
        # Written when it is told: after a crash in between it is told again rather than never.
        await self._context.store.run(_note, now)
        self._seen = now

    async def _before(self) -> Seen | None:
        if self._seen is None:
            note = await self._context.store.run(lambda store: store.profile.note(SEEN))
            self._seen = None if note is None else Seen.from_bytes(note)
        return self._seen

    def _tell_devices(self, entered: Iterator[Key], me: Address, record: KeyRecord) -> None:
        for key in entered:
            if key.address == me or key.fingerprint in self._expected:
                continue
            parent = record.parent_of(key.request)
            by = "another of your devices" if parent is None else f"your device {parent.address.device_id}"
            self._context.tell(
                "info",
                "NEW_DEVICE",
                f"{by} has approved a further one, {key.address}: if that was not you, revoke both",
                device=key.address.device_id,
                fingerprint=key.fingerprint.hex(),
            )

    def _tell_reset(self, record: KeyRecord, before: int) -> None:
        if record.reset_time == before:
            return
        if record.reset_time:
            self._context.tell(
                "error",
                "RESET_ANNOUNCED",
                f"somebody who signed in as {record.username} has asked for a new identity, which will withdraw all "
                "devices of today: if that was not you, cancel the reset from this device",
                username=record.username,
                reset_time=record.reset_time,
            )
        else:
            self._context.tell(
                "info",
                "RESET_CANCELLED",
                f"the identity reset that was announced for {record.username} will not take place",
                username=record.username,
            )


def _entered(record: KeyRecord, before: Seen) -> Iterator[Key]:
    """Return the first keys of devices that were not there, as far as a key of theirs is good."""
    good = {key.address.device_id for key in record.keys if key.is_good} - before.devices
    return (
        key for key in record.keys if key.address.device_id in good and key.request.kind == pb.KEY_REQUEST_KIND_APPROVE
    )


def _note(store: KeyStore, seen: Seen) -> None:
    store.profile.set_note(SEEN, seen.to_bytes())


def as_revoked(error: RefusedError, me: Address | None) -> KeyRevokedError | None:
    """Return the error that stops this device, if a service refuses its key because it was revoked."""
    is_revoked = error.reason == TOKEN_REFUSED and error.metadata.get("cause") in REVOKED_CAUSES
    return revoked_error(me) if is_revoked and me is not None else None


def says_replaced(error: KeypostError) -> bool:
    """Return whether a service refuses this device's key because another one has taken its place."""
    is_refused = isinstance(error, RefusedError) and error.reason == TOKEN_REFUSED
    return is_refused and error.metadata.get("cause") == "KEY_SUPERSEDED"


def revoked_error(me: Address) -> KeyRevokedError:
    """Return the error that stops this device."""
    return KeyRevokedError(
        f"the key of {me} was revoked: this device can no longer receive or send; what it has received stays readable"
    )
