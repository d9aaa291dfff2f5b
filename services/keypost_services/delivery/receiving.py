"""Receive: one stream a device, from its mailbox, until the device is done or opens another one.

Nothing is taken out of a mailbox but by acknowledgement, so a stream may end anywhere without loss: what is
unacknowledged comes again on the next one. That streams end with their key, their hour and the service is the
runtime's part.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from keypost_services.delivery.errors import receiver_displaced
from keypost_services.delivery.mailboxes import (
    BEGINNING,
    Claim,
    Mailboxes,
    MailboxesUnavailableError,
    Page,
    ReceiverDisplacedError,
    position,
)
from keypost_services.delivery.trust import realm_constants
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator

    from keypost.clock import Clock
    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.mailboxes import Waiting, WakeUps
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.runtime.realm_trust import TrustKeeper

MOST_WAITING = 4
"""Messages with acknowledgements that were read while the mailbox forgets others."""
_Read = Sequence[str] | Exception | None
"""Delivery ids, or how reading them ended: None, the device has nothing more to say."""
LOOK_SECONDS = 30.0
"""After so long without a wake-up, spread by a quarter to either side, the mailbox is read all the same."""


class Outlet(Protocol):
    """Where a stream's words go; each call returns when the device may get the next one."""

    async def batch(self, waiting: Sequence[Waiting]) -> None:
        """Push envelopes."""
        ...

    async def queue_empty(self) -> None:
        """Say that the backlog is handed out."""
        ...


@dataclass(frozen=True)
class Device:
    """The other end of a stream.

    Attributes:
        address: Whose mailbox it is.
        max_unacknowledged: How many envelopes may be under way.
        acknowledgements: Delivery ids, as the device sends them; ends when it has nothing more to say.
        outlet: Where envelopes go.
    """

    address: Address
    max_unacknowledged: int
    acknowledgements: AsyncIterator[Sequence[str]]
    outlet: Outlet


class Receiving:
    """Serves the streams of this replica.

    Args:
        mailboxes: Where envelopes wait.
        trust: The realm's constants.
        clock: The time.
        ids: Names streams, unique among replicas.
        jitter: Returns a number from 0 to 1.
        metrics: Counts.
        on_left: Told whose stream has ended and was not followed by another: what woke it may wait still.
        look_seconds: How long a stream relies on wake-ups.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        trust: TrustKeeper,
        *,
        clock: Clock,
        ids: Callable[[], str],
        jitter: Callable[[], float],
        metrics: Metrics,
        on_left: Callable[[Collection[Address]], None],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.mailboxes = mailboxes
        self.clock = clock
        self.metrics = metrics
        self._on_left = on_left
        self._trust = trust
        self._ids = ids
        self._jitter = jitter
        self._look_seconds = look_seconds
        self._streams: dict[Address, _Stream] = {}

    @property
    def look_seconds(self) -> float:
        """How long the next wait for a wake-up may last."""
        return self._look_seconds * (0.75 + self._jitter() / 2)

    async def receive(self, device: Device) -> None:
        """Serve a stream; returns when the device has nothing more to say.

        Raises:
            ServiceError: ABORTED with RECEIVER_DISPLACED; DIRECTORY_UNAVAILABLE; what ``acknowledgements`` raises.
            MailboxesUnavailableError: the mailboxes cannot be reached.
        """
        mailbox_age = (await realm_constants(self._trust)).mailbox_age
        stream = _Stream(self, device, self._ids(), mailbox_age)
        # At this replica at once, even if the device does not read on; at others by their wake-up.
        if (earlier := self._streams.get(device.address)) is not None:
            earlier.displace()
        self._streams[device.address] = stream
        try:
            with self._counted():
                await stream.run()
        finally:
            if self._streams.get(device.address) is stream:
                del self._streams[device.address]
                if not stream.is_displaced:
                    self._on_left([device.address])

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.metrics.stream_opened()
        reason = "CLIENT"
        try:
            yield
        except ReceiverDisplacedError:
            reason = "RECEIVER_DISPLACED"
            raise receiver_displaced() from None
        except MailboxesUnavailableError:
            reason = "MAILBOXES_UNAVAILABLE"
            raise
        except ServiceError as error:
            reason = error.reason
            raise
        finally:
            self.metrics.stream_ended(reason)


class _Stream:
    """One device's stream."""

    def __init__(self, receiving: Receiving, device: Device, name: str, mailbox_age: int) -> None:
        self._receiving = receiving
        self._mailboxes = receiving.mailboxes
        self._device = device
        self._name = name
        self._mailbox_age = mailbox_age
        self._under_way: set[str] = set()
        self._look = asyncio.Event()
        self._displaced = asyncio.Event()

    @property
    def is_displaced(self) -> bool:
        """Whether the device has opened another stream, here or elsewhere."""
        return self._displaced.is_set()

    def displace(self) -> None:
        """End the stream: its device has opened another one here."""
        self._displaced.set()

    async def run(self) -> None:
        """Run until one of the things that a stream does has ended, or fails."""
        address = self._device.address
        # Before anything else: a claim that takes long on its way is then older than that of the device's next stream.
        claim = Claim(address, self._name, await self._mailboxes.claim_number(address))
        async with self._mailboxes.watch(address) as wake_ups:
            if self.is_displaced:
                raise ReceiverDisplacedError
            with self._may_be_displaced():
                newest = await self._mailboxes.claim(claim)
            try:
                await _first_of(
                    self._listen(wake_ups),
                    self._push(claim, newest),
                    self._take_acknowledgements(),
                    self._await_displacement(),
                )
            finally:
                await self._release(claim)

    async def _release(self, claim: Claim) -> None:
        # Shielded: the device may be gone, which cancels everything here. A claim that stays ends by itself.
        releasing = asyncio.gather(self._mailboxes.release(claim), return_exceptions=True)
        await asyncio.shield(releasing)

    @contextlib.contextmanager
    def _may_be_displaced(self) -> Iterator[None]:
        """Note that the mailbox says that the device has opened another stream."""
        try:
            yield
        except ReceiverDisplacedError:
            self._displaced.set()
            raise

    async def _await_displacement(self) -> None:
        await self._displaced.wait()
        raise ReceiverDisplacedError

    async def _listen(self, wake_ups: WakeUps) -> None:
        while True:
            await wake_ups.wait()
            self._look.set()

    async def _take_acknowledgements(self) -> None:
        """Have the mailbox forget what is acknowledged: at once whatever came in while it forgot the last ones."""
        read: asyncio.Queue[_Read] = asyncio.Queue(MOST_WAITING)
        reading = asyncio.create_task(self._read_acknowledgements(read))
        try:
            going_on: _Read = ()
            while going_on is not None:
                delivery_ids, going_on = await _everything(read)
                if delivery_ids:
                    count = await self._mailboxes.acknowledge(self._device.address, delivery_ids)
                    self._receiving.metrics.acknowledged(count)
                if isinstance(going_on, Exception):
                    raise going_on
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_acknowledgements(self, read: asyncio.Queue[_Read]) -> None:
        try:
            async for delivery_ids in self._device.acknowledgements:
                if self._room == 0:
                    self._look.set()
                self._under_way.difference_update(delivery_ids)
                await read.put(delivery_ids)
        except Exception as error:  # noqa: BLE001  # raised where the stream is served, after what came before
            await read.put(error)
        else:
            await read.put(None)

    @property
    def _room(self) -> int:
        return self._device.max_unacknowledged - len(self._under_way)

    async def _push(self, claim: Claim, newest: str) -> None:
        """Push what waits, say once that everything up to ``newest`` is handed out, then push what comes."""
        after, backlog = BEGINNING, True
        while True:
            self._look.clear()
            room = self._room
            with self._may_be_displaced():
                found = await self._mailboxes.read(claim, after, Page(room), self._oldest())
            if backlog and room and (not found or position(found[0].delivery_id) > position(newest)):
                backlog = False
                await self._device.outlet.queue_empty()
            if not found:
                await self._something_to_look_for()
                continue
            after = found[-1].delivery_id
            await self._hand_out(found, backlog=backlog)
            if backlog and position(after) >= position(newest):
                backlog = False
                await self._device.outlet.queue_empty()

    async def _hand_out(self, found: Sequence[Waiting], *, backlog: bool) -> None:
        # Noted before it is sent: the acknowledgement may be faster than the return from sending.
        self._under_way.update(waiting.delivery_id for waiting in found)
        await self._device.outlet.batch(found)
        self._receiving.metrics.pushed(found, self._receiving.clock(), backlog=backlog)

    async def _something_to_look_for(self) -> None:
        with contextlib.suppress(TimeoutError):  # a wake-up may have been lost
            async with asyncio.timeout(self._receiving.look_seconds):
                await self._look.wait()

    def _oldest(self) -> int:
        return self._receiving.clock() - self._mailbox_age


async def _everything(read: asyncio.Queue[_Read]) -> tuple[Sequence[str], _Read]:
    """Return all delivery ids that are there, and what was read last: the end, an error, or some of them."""
    delivery_ids: list[str] = []
    while True:
        item = await read.get()
        if item is None or isinstance(item, Exception):
            return delivery_ids, item
        delivery_ids += item
        if read.empty():
            return delivery_ids, item


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one returns or raises; the others are cancelled, and gone when this returns."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
