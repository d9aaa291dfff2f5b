"""What waits for the other devices of this user, and why this one cannot read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.client.results import WaitingElsewhere
from keypost.errors import KeypostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keypost.client.context import Context
    from keypost.client.identity import Identity
    from keypost.client.records import Records
    from keypost.delivery.v1 import delivery_service_pb2
    from keypost.protocol.identifiers import Address
    from keypost.transport.delivery_client import DeliveryClient

MESSAGES_FOR_OTHER_DEVICES = "MESSAGES_FOR_OTHER_DEVICES"


class Elsewhere:
    """Asks delivery what waits for the other devices.

    Args:
        context: What all parts share.
        identity: The own device.
        records: Where the own record is verified and kept.
        delivery: Where the mailboxes are.
    """

    def __init__(self, context: Context, identity: Identity, records: Records, delivery: DeliveryClient) -> None:
        self._context = context
        self._identity = identity
        self._records = records
        self._delivery = delivery

    async def waiting(self) -> tuple[WaitingElsewhere, ...]:
        """Return what waits for each other device for which something does; see Client.waiting_elsewhere."""
        if not (others := await self._others()):
            return ()
        return tuple(_known(await self._delivery.list_mailboxes(), others))

    async def tell(self) -> None:
        """Tell a device that is new what waits for the others; if nobody can be asked, nothing."""
        try:
            found = await self.waiting()
        except KeypostError:
            return
        if messages := sum(one.messages for one in found):
            names = ", ".join(str(one.device) for one in found)
            self._context.tell(
                "info",
                MESSAGES_FOR_OTHER_DEVICES,
                f"{messages} message(s) wait for {names}: they were sealed to the keys that this user had when they "
                "were sent, and only those devices can read them, not this one",
                messages=messages,
                devices=len(found),
            )

    async def _others(self) -> frozenset[Address]:
        me = self._identity.address
        record = await self._records.get(me.username)
        return frozenset(key.address for key in record.keys if key.is_good and key.address != me)


def _known(mailboxes: Iterable[delivery_service_pb2.Mailbox], others: frozenset[Address]) -> Iterable[WaitingElsewhere]:
    # Delivery's word proves nothing: what it says of devices that the verified record does not have is left out.
    by_device_id = {mailbox.device_id: mailbox for mailbox in mailboxes}
    for device in sorted(others, key=str):
        mailbox = by_device_id.get(device.device_id)
        if mailbox is not None and mailbox.messages > 0:
            yield WaitingElsewhere(device, mailbox.messages, mailbox.oldest_accept_time)
