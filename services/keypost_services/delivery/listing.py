"""Listing: what waits for the devices of one user, told to one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.extension import MOST_DEVICES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost_services.delivery.mailboxes import Backlog, Mailboxes
    from keypost_services.delivery.records import Records


class Listing:
    """Says how much waits for the devices of a user.

    Args:
        mailboxes: Where it waits.
        records: Which devices a user has.
    """

    def __init__(self, mailboxes: Mailboxes, records: Records) -> None:
        self._mailboxes = mailboxes
        self._records = records

    async def of_user(self, caller: Key) -> Mapping[Address, Backlog]:
        """Return what waits for each device of the caller's own user, ordered by device id.

        Args:
            caller: The verified key of who asks: the one thing that says whose mailboxes are meant.

        Raises:
            ServiceError: DIRECTORY_UNAVAILABLE.
            MailboxesUnavailableError: the mailboxes do not answer.
        """
        record = await self._records.current(caller.address.username)
        return await self._mailboxes.backlogs(_devices_of(record))


def _devices_of(record: KeyRecord) -> list[Address]:
    # Expired keys too: such a device may still renew, and its mailbox waits for it.
    good = {key.address for key in record.unended_keys}
    return sorted(good, key=str)[:MOST_DEVICES]
