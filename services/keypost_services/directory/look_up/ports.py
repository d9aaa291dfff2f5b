"""What look-ups need from outside, as ports: where records are kept, and where they come from."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from keypost.protocol.key_info import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.keys.v1 import key_info_pb2


class Failure(Enum):
    """Why a look-up has no record."""

    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"


Outcome: TypeAlias = KeyRecord | Failure


class StoreAwayError(Exception):
    """A store cannot be reached, or did not answer in time."""


class RecordStore(Protocol):
    """Keeps verified records: one port, an adapter in process memory and one in Redis.

    Each user has at most one record, and a *floor*: the lowest revision that may still be kept.
    """

    async def get_many(self, usernames: Sequence[str]) -> Mapping[str, KeyRecord]:
        """Return the records kept of these users that are fresh, verified and at or above their floor.

        Raises:
            StoreAwayError: the store does not answer.
        """

    async def put_many(self, records: Sequence[KeyRecord]) -> None:
        """Keep these records; one that is older than what is kept, or below the user's floor, changes nothing.

        Raises:
            StoreAwayError: the store does not answer.
        """

    async def drop_many(self, floors: Mapping[str, int]) -> None:
        """Raise the floors of these users, and forget their records below.

        Args:
            floors: The lowest revision that may be kept, by username.

        Raises:
            StoreAwayError: the store does not answer.
        """

    async def drop_all(self) -> None:
        """Forget all records and all floors.

        Raises:
            StoreAwayError: the store does not answer.
        """


class Position(Protocol):
    """Where the watch stood when Redis was last put right: a replica that starts resumes there."""

    async def read(self) -> int | None:
        """Return the sequence up to which the records in Redis are right; None if nobody knows.

        Raises:
            StoreAwayError: the store does not answer.
        """

    async def advance(self, sequence: int) -> None:
        """Note that all events up to ``sequence`` were acted upon; never goes back.

        Raises:
            StoreAwayError: the store does not answer.
        """


class KeySource(Protocol):
    """The CA, as look-ups see it. What it returns is not verified yet."""

    async def fetch(self, usernames: Sequence[str]) -> Mapping[str, key_info_pb2.KeyInfo]:
        """Return the key info of those of these (1 to 100) users that exist, with full history.

        Raises:
            SourceAwayError: the CA does not answer.
        """
