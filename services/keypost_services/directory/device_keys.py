"""The directory resolves the tokens of its own callers by its own look-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.errors import TokenRefusedError
from keypost_services.directory.errors import ca_unavailable
from keypost_services.directory.look_up.ports import Failure

if TYPE_CHECKING:
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost_services.directory.look_up.look_up import LookUp


class DirectoryDeviceKeys:
    """Finds the keys that tokens name.

    Args:
        look_up: Where records are found.
    """

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up

    async def find_device_key(self, username: str, fingerprint: bytes) -> Key:
        """Return the key with ``fingerprint`` (32 bytes) in the record of ``username``, whatever its state.

        A key that the record does not name may be newer than the record: the CA is asked, once for all who ask, and
        what it does not confirm is remembered for a moment.

        Raises:
            TokenRefusedError: UNKNOWN_KEY: there is no such user or no such key; KEY_VOID: it descends from a key that
                was compromised.
            ServiceError: CA_UNAVAILABLE.
        """
        record = await self._record(username, 0)
        if record.find(fingerprint) is None:
            record = await self._record(username, record.revision + 1)
        key = record.find(fingerprint)
        if key is None:
            raise TokenRefusedError("UNKNOWN_KEY")
        if record.is_void(key):
            raise TokenRefusedError("KEY_VOID")
        return key

    async def _record(self, username: str, min_revision: int) -> KeyRecord:
        outcome = await self._look_up.find(username, min_revision=min_revision)
        if outcome is Failure.NOT_FOUND:
            raise TokenRefusedError("UNKNOWN_KEY")
        if isinstance(outcome, Failure):
            raise ca_unavailable()
        return outcome
