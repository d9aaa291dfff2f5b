"""Records in process memory, bounded by their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import LRUCache

from keypost.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.clock import Clock
    from keypost.protocol.key_info import KeyRecord

# A parsed record takes several times its bytes: fitted to how resident memory grew by records of 1, 3 and 10 keys.
# It is kept serialised too.
BYTES_PER_SERIALISED_BYTE = 7
BYTES_PER_RECORD = 2_048
MOST_FLOORS = 200_000
"""Of so many users the floor is remembered."""


class ProcessStore:
    """A RecordStore that also remembers records that may no longer be served, for time's arrow.

    Its methods do not yield to the event loop: between a check and a put nothing else happens.

    Args:
        clock: Unix milliseconds.
        most_bytes: About how much memory the records may take; the least recently used go first.
    """

    def __init__(self, clock: Clock, *, most_bytes: int) -> None:
        self._clock = clock
        self._records: LRUCache[str, KeyRecord] = LRUCache(most_bytes, getsizeof=memory_of)
        self._floors: LRUCache[str, int] = LRUCache(MOST_FLOORS)

    @property
    def size(self) -> float:
        """About how many bytes the records take."""
        return self._records.currsize

    async def get_many(self, usernames: Sequence[str]) -> Mapping[str, KeyRecord]:
        """Return the fresh records of these users."""
        return self.fresh(usernames)

    def fresh(self, usernames: Sequence[str]) -> dict[str, KeyRecord]:
        """Return the records of these users that are fresh and not below the floor."""
        now, records, floors = self._clock(), self._records, self._floors
        found: dict[str, KeyRecord] = {}
        for username in usernames:
            record = records.get(username)
            if record is not None and record.revision >= floors.get(username, 0) and _is_fresh(record, now):
                found[username] = record
        return found

    def get(self, username: str) -> KeyRecord | None:
        """Return the user's record if it is fresh and not below the floor."""
        return self.fresh((username,)).get(username)

    def latest(self, username: str) -> KeyRecord | None:
        """Return the newest verified record that is remembered, whether or not it may still be served."""
        return self._records.get(username)

    def floor(self, username: str) -> int:
        """Return the lowest revision that may still be served: 0 if nothing is known of the user."""
        return self._floors.get(username, 0)

    async def put_many(self, records: Sequence[KeyRecord]) -> None:
        """Keep these records where they are newer."""
        for record in records:
            self.put(record)

    def put(self, record: KeyRecord) -> None:
        """Keep this record if it is newer than what is kept and not below the floor."""
        username = record.username
        kept = self._records.get(username)
        is_newer = kept is None or (record.revision, record.this_update) > (kept.revision, kept.this_update)
        if not is_newer or record.revision < self.floor(username):
            return
        self._floors[username] = record.revision
        if memory_of(record) <= self._records.maxsize:
            self._records[username] = record
        else:
            self._records.pop(username, None)

    async def drop_many(self, floors: Mapping[str, int]) -> None:
        """Raise the floors; what is below stays for time's arrow alone."""
        for username, floor in floors.items():
            self._floors[username] = max(floor, self.floor(username))

    def drop_records(self) -> None:
        """Serve nothing that is held; the floors stay: a CA that was restored must not bring an older record back."""
        self._records.clear()

    async def drop_all(self) -> None:
        """Forget everything, floors too."""
        self._records.clear()
        self._floors.clear()


def memory_of(record: KeyRecord) -> int:
    """Return about how many bytes of memory ``record`` takes."""
    return BYTES_PER_RECORD + BYTES_PER_SERIALISED_BYTE * record.key_info.ByteSize()


def _is_fresh(record: KeyRecord, now: int) -> bool:
    try:
        record.check_fresh(now)
    except ProtocolError:
        return False
    return True
