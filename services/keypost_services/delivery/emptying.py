"""Emptying: what waits for a device that was revoked is deleted; nobody may receive it any more.

A key event says whose record has changed, and no more. What is deleted, the verified record alone says: whoever could
forge an event could not make delivery forget a message. What another replica still accepts by an older record, it
deletes itself as soon as it sees the newer one; and whoever stores by one looks afterwards whether it still is the
newest (``sending``), since the mailbox may have been emptied in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.protocol.key_info import REVOKED
from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.delivery.mailboxes import Mailboxes
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.delivery.records import Records

MOST_PENDING = 10_000
MOST_LOOK_UPS = 5
"""So often a record is asked for; later, whoever looks the user up finds the same."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Emptying:
    """Empties the mailboxes of revoked devices, one after the other.

    Args:
        mailboxes: The mailboxes.
        records: Which devices were revoked.
        metrics: Counts what is deleted.
        log: Says of which device how much was deleted.
        on_change: Called with None when everything is emptied, and with a sentence when it cannot be.
        first_pause_seconds: How long after a failure it is tried again; then twice as long, and so on.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        records: Records,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        on_change: Callable[[str | None], None],
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._mailboxes = mailboxes
        self._records = records
        self._metrics = metrics
        self._log = log
        self._on_change = on_change
        self._first_pause_seconds = first_pause_seconds
        self._look_ups: dict[str, tuple[int, int]] = {}
        self._addresses: dict[Address, None] = {}
        self._pending = asyncio.Event()

    def revoked(self, username: str, revision: int) -> None:
        """Take note that an event says that a key of this user was revoked, by this revision."""
        if len(self._look_ups) < MOST_PENDING:
            self._look_ups[username] = revision, MOST_LOOK_UPS
            self._pending.set()

    def saw(self, previous: KeyRecord | None, record: KeyRecord) -> None:
        """Take note of a verified record.

        Args:
            previous: The one that was known before, if any was.
            record: The newest.
        """
        known = set() if previous is None else revoked_devices(previous)
        self.empty(revoked_devices(record) - known)

    def empty(self, addresses: Iterable[Address]) -> None:
        """Take note that something may wait for these devices, which are revoked."""
        for address in addresses:
            if len(self._addresses) < MOST_PENDING:
                self._addresses[address] = None
                self._pending.set()

    async def run(self) -> None:
        """Empty whatever is to be emptied; never returns."""
        pause = self._first_pause_seconds
        while True:
            await self._pending.wait()
            self._pending.clear()
            await self._look_up_all()
            if await self._empty_all() and not self._look_ups:
                pause = self._first_pause_seconds
                continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._pending.set()

    async def _look_up_all(self) -> None:
        for username, (revision, attempts) in list(self._look_ups.items()):
            found = await self._has(username, revision)
            if self._look_ups[username] != (revision, attempts):
                continue  # another event has come meanwhile
            if found or attempts == 1:
                del self._look_ups[username]
            else:
                self._look_ups[username] = revision, attempts - 1

    async def _has(self, username: str, revision: int) -> bool:
        """Return whether the record of a user is had, of this revision; whatever is new in it was told by then."""
        try:
            return (await self._records.at_least(username, revision)).revision >= revision
        except ServiceError:
            return False

    async def _empty_all(self) -> bool:
        """Return whether all mailboxes could be emptied."""
        try:
            for address in list(self._addresses):
                await self._empty_one(address)
        except MailboxesUnavailableError as error:
            self._log.warning("mailboxes of revoked devices not emptied", why=str(error), pending=len(self._addresses))
            self._on_change("mailboxes of revoked devices are not emptied yet")
            return False
        self._on_change(None)
        return True

    async def _empty_one(self, address: Address) -> None:
        # Taken out first: what is noted while the mailbox is being emptied is emptied again.
        del self._addresses[address]
        try:
            count = await self._mailboxes.empty(address)
        except MailboxesUnavailableError:
            self._addresses[address] = None
            raise
        self._tell(address, count)

    def _tell(self, address: Address, count: int) -> None:
        self._metrics.deleted(count)
        if count:
            self._log.info("mailbox of a revoked device emptied", device=str(address), deleted=count)


def revoked_devices(record: KeyRecord) -> set[Address]:
    """Return the devices that have no good key any more since theirs was revoked, or is void."""
    good = {key.address for key in record.unended_keys}
    return {key.address for key in record.keys if key.state == REVOKED or record.is_void(key)} - good
