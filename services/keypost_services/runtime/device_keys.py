"""Looks up the keys that tokens name: one order, and one judgement, for all services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from keypost.protocol.errors import TokenRefusedError
from keypost_services.runtime.auth import FoundKey

if TYPE_CHECKING:
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.realm_trust import Constants


class CallerRecords(Protocol):
    """Where a service finds the records of its callers."""

    async def find_record(self, username: str, min_revision: int) -> KeyRecord | None:
        """Return the verified record of a user, None if there is no such user.

        Args:
            username: The user.
            min_revision: A revision that may exist; the answer may still be lower. 0: what is held will do.

        Raises:
            ServiceError: the record cannot be had now.
        """
        ...

    async def constants(self) -> Constants:
        """Return the realm's constants.

        Raises:
            ServiceError: they are not known now.
        """
        ...


class RecordedDeviceKeys:
    """DeviceKeys out of records.

    Args:
        records: The service's records.
    """

    def __init__(self, records: CallerRecords) -> None:
        self._records = records

    async def find_device_key(self, username: str, fingerprint: bytes) -> FoundKey:
        """Return the key with ``fingerprint`` (32 bytes) in the record of ``username``, whatever its state.

        A key that the record does not name may be newer than the record: then the next revision is asked for, once.

        Raises:
            TokenRefusedError: UNKNOWN_KEY: there is no such user or no such key; KEY_VOID: it descends from a key that
                was compromised; SUITE_NOT_ALLOWED: the realm does not allow its suite (any more).
            ServiceError: the record cannot be had now.
        """
        record = await self._record(username, 0)
        if record.find(fingerprint) is None:
            record = await self._record(username, record.revision + 1)
        key = _find(record, fingerprint)
        _check_not_void(key, record)
        _check_suite_allowed(key, await self._records.constants())
        return FoundKey(key, record.next_update)

    async def _record(self, username: str, min_revision: int) -> KeyRecord:
        record = await self._records.find_record(username, min_revision)
        if record is None:
            raise TokenRefusedError("UNKNOWN_KEY")
        return record


def _find(record: KeyRecord, fingerprint: bytes) -> Key:
    key = record.find(fingerprint)
    if key is None:
        raise TokenRefusedError("UNKNOWN_KEY")
    return key


def _check_not_void(key: Key, record: KeyRecord) -> None:
    if record.is_void(key):
        raise TokenRefusedError("KEY_VOID")


def _check_suite_allowed(key: Key, constants: Constants) -> None:
    if key.suite.id not in constants.allowed_suites:
        raise TokenRefusedError("SUITE_NOT_ALLOWED")
