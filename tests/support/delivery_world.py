"""Alice and Bob, one device each, and a delivery replica between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.asyncio import Redis

from keypost_services.delivery.mailboxes import MailboxLimits
from support.delivery import SimulatedDevice, Stack, text_of, until
from support.mailboxes import append, open_mailboxes, posting

if TYPE_CHECKING:
    from keypost.delivery.v1 import delivery_service_pb2 as pb
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost_services.delivery.settings import DeliverySettings
    from keypost_services.runtime.serving import RunningService

LARGE = MailboxLimits()
EVENTS = "keypost_delivery_key_events_total"


class World:
    """Everything that a test of a replica needs; ``start`` comes first."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.directory = stack.directory
        self.alice_pair = stack.realm.enroll("alice")
        self.bob_pair = stack.realm.enroll("bob")
        self.service: RunningService[DeliverySettings]
        self.alice: SimulatedDevice
        self.bob: SimulatedDevice

    async def start(self, **changes: object) -> None:
        self.service = await self.stack.start(**changes)
        self.alice = await self.device(self.alice_pair)
        self.bob = await self.device(self.bob_pair)

    async def device(self, pair: DeviceKeyPair) -> SimulatedDevice:
        return await self.stack.device(pair, self.service.public_port)

    async def send(self, *texts: str) -> None:
        """Send texts from Alice to Bob."""
        for text in texts:
            assert (await self.alice.send_text("bob", text)).HasField("stored")

    def texts(self, deliveries: list[pb.Delivery]) -> list[str]:
        return [text_of(delivery, self.bob_pair) for delivery in deliveries]

    async def mailbox(self, pair: DeviceKeyPair) -> list[str]:
        """Return what waits for a device."""
        async with (await self.device(pair)).receive() as stream:
            return [text_of(delivery, pair) for delivery in await stream.backlog()]

    async def fill(self, bodies: list[bytes], pair: DeviceKeyPair | None = None) -> None:
        """Put bytes into a mailbox, Bob's unless another is named, as a replica would."""
        address = (pair or self.bob_pair).address
        async with open_mailboxes(self.stack.valkey.url, limits=LARGE) as replica:
            for body in bodies:
                await append(replica.mailboxes, posting(body, address, accept_time=self.stack.clock()))

    async def keys_of(self, pair: DeviceKeyPair) -> list[bytes]:
        """Return the names of everything that Valkey holds of a mailbox."""
        async with Redis.from_url(self.stack.valkey.url) as client:
            return [key async for key in client.scan_iter(match=f"*{{{pair.address}}}*")]

    async def lose_mailbox(self, pair: DeviceKeyPair) -> None:
        async with Redis.from_url(self.stack.valkey.url) as client:
            await client.delete(*await self.keys_of(pair))

    async def event(self, username: str = "bob") -> None:
        """Tell an event and return when it is handled."""
        target = self.counted(EVENTS) + 1
        self.directory.tell(username)
        await until(lambda: self.counted(EVENTS) == target)

    async def event_arrived(self) -> None:
        """Return when the replica has handled every event that the directory told."""
        await until(lambda: self.counted(EVENTS) == len(self.directory.events))

    async def watch_number(self, number: int) -> None:
        """Return when this many watches were opened and the last one stands."""
        await until(lambda: len(self.directory.resumed_after) >= number and "key_events" not in self.degraded)

    async def questions(self) -> int:
        """Return how often the directory is asked for Bob while Alice sends to him."""
        before = self.directory.asked["bob"]
        await self.alice.send_text("bob")
        return self.directory.asked["bob"] - before

    @property
    def degraded(self) -> dict[str, str]:
        return self.service.runtime.health.degraded

    def counted(self, name: str, **labels: str) -> float:
        return self.service.runtime.metrics.get_sample_value(name, labels) or 0.0
