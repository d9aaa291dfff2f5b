"""When the gateway is told: at once when something arrives for a device that nobody here serves, then now and then.

What is told is where something waits and how much, counted just before; what is acknowledged meanwhile is not told. A
wake-up is derived from what waits: if one is lost with its process, the device finds its mailbox all the same.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.wake_up_hook.gateway import GatewayAwayError, GatewayRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.mailboxes import Backlog, Mailboxes
    from keypost_services.delivery.metrics import Metrics
    from keypost_services.delivery.wake_up_hook.gateway import Gateway

MOST_PENDING = 100_000
MOST_AT_ONCE = 16
MOST_ATTEMPTS = 12
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
FAREWELL_SECONDS = 3.0


@dataclass(order=True)
class _WakeUp:
    due: float
    number: int
    address: Address = field(compare=False)
    message_id: str = field(compare=False)
    attempts: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Pace:
    """How fast wake-ups follow each other.

    Attributes:
        jitter: Returns a number from 0 to 1.
        interval_seconds: How long a device is left alone after it was woken.
        first_pause_seconds: How long after a failure it is tried again; then twice as long, and so on.
        most_pending: How many devices may be about to be woken; those beyond are counted as dropped.
    """

    jitter: Callable[[], float]
    interval_seconds: float
    first_pause_seconds: float = FIRST_PAUSE_SECONDS
    most_pending: int = MOST_PENDING

    def pause(self, attempts: int) -> float:
        """Return after how many seconds to try again what was tried before so often."""
        longest = min(self.first_pause_seconds * 2.0**attempts, LONGEST_PAUSE_SECONDS)
        return longest * (0.5 + self.jitter() / 2)


class WakeUpHook:
    """Tells a gateway.

    Args:
        mailboxes: Says how much waits.
        gateway: Where wake-ups go.
        metrics: Counts.
        log: Says what failed.
        realm: The realm, for the gateway.
        ids: Names wake-ups.
        pace: How fast they follow each other.
        on_change: Called with a sentence when the gateway fails, with None when it takes something again.
    """

    def __init__(
        self,
        mailboxes: Mailboxes,
        gateway: Gateway,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        realm: str,
        ids: Callable[[], str],
        pace: Pace,
        on_change: Callable[[str | None], None],
    ) -> None:
        self._realm = realm
        self._mailboxes = mailboxes
        self._gateway = gateway
        self._metrics = metrics
        self._log = log
        self._ids = ids
        self._pace = pace
        self._on_change = on_change
        self._numbers = itertools.count()
        self._heap: list[_WakeUp] = []
        self._pending: set[Address] = set()
        self._woken: dict[Address, float] = {}
        self._changed = asyncio.Event()
        metrics.hook_waits(lambda: len(self._pending))

    def unheard(self, addresses: Iterable[Address]) -> None:
        """Take note that something has arrived in these mailboxes, and that nobody heard of it."""
        now = asyncio.get_running_loop().time()
        for address in addresses:
            if address in self._pending:
                continue
            if len(self._pending) >= self._pace.most_pending:
                self._metrics.woken_by_hook("dropped")
                continue
            self._pending.add(address)
            due = max(now, self._woken.get(address, now))
            self._push(_WakeUp(due, next(self._numbers), address, self._ids()))

    async def run(self) -> None:
        """Tell the gateway whatever it is to be told; never returns."""
        turns = asyncio.Semaphore(MOST_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                wake_up = await self._next_due()
                await turns.acquire()
                group.create_task(self._serve(wake_up)).add_done_callback(lambda _: turns.release())

    async def farewell(self) -> None:
        """Try once, and not for long, to tell what is still to be told: this process ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                while self._heap:
                    batch = [heapq.heappop(self._heap) for _ in range(min(MOST_AT_ONCE, len(self._heap)))]
                    await asyncio.gather(*map(self._attempt, batch))
        if self._heap:
            self._log.warning("wake-ups are lost with this process", count=len(self._heap))

    def _push(self, wake_up: _WakeUp) -> None:
        heapq.heappush(self._heap, wake_up)
        self._changed.set()

    async def _next_due(self) -> _WakeUp:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            self._forget_woken(loop.time())
            wait = self._heap[0].due - loop.time() if self._heap else None
            if wait is not None and wait <= 0:
                return heapq.heappop(self._heap)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def _forget_woken(self, now: float) -> None:
        # In the order in which they may be woken again.
        while self._woken and (first := next(iter(self._woken.items())))[1] <= now:
            del self._woken[first[0]]

    async def _serve(self, wake_up: _WakeUp) -> None:
        pause: float | None = self._pace.pause(wake_up.attempts)
        try:
            pause = await self._attempt(wake_up)
        finally:  # it is cancelled when the process ends: then the farewell is its last chance
            self._again_after(pause, wake_up)

    def _again_after(self, pause: float | None, wake_up: _WakeUp) -> None:
        wake_up.attempts += 1
        if pause is not None and wake_up.attempts >= MOST_ATTEMPTS:
            self._log.warning("wake-up given up", device=str(wake_up.address), attempts=wake_up.attempts)
            self._end(wake_up, "given_up")
            pause = None
        if pause is None:
            self._pending.discard(wake_up.address)
            return
        wake_up.due = asyncio.get_running_loop().time() + pause
        self._push(wake_up)

    async def _attempt(self, wake_up: _WakeUp) -> float | None:
        """Return after how many seconds to try again; None if there is nothing more to do."""
        try:
            backlog = (await self._mailboxes.backlogs([wake_up.address]))[wake_up.address]
            if backlog.messages:
                await self._gateway.post(wake_up.message_id, self._body(wake_up.address, backlog))
        except GatewayAwayError as error:
            self._metrics.woken_by_hook("failed")
            self._on_change(f"the push gateway does not take wake-ups: {error}")
            return max(error.retry_after, self._pace.pause(wake_up.attempts))
        except MailboxesUnavailableError:
            return self._pace.pause(wake_up.attempts)
        except GatewayRefusedError as error:
            self._log.warning("wake-up refused", device=str(wake_up.address), why=str(error))
            self._on_change(f"the push gateway refuses wake-ups: {error}")
            self._end(wake_up, "refused")
            return None
        self._end(wake_up, "taken" if backlog.messages else "needless")
        if backlog.messages:
            self._on_change(None)
        return None

    def _end(self, wake_up: _WakeUp, outcome: str) -> None:
        self._metrics.woken_by_hook(outcome)
        if outcome != "needless":
            self._woken.pop(wake_up.address, None)
            self._woken[wake_up.address] = asyncio.get_running_loop().time() + self._pace.interval_seconds

    def _body(self, address: Address, backlog: Backlog) -> bytes:
        said = {"realm": self._realm, "username": address.username, "device_id": address.device_id}
        return json.dumps(said | {"waiting": backlog.messages}).encode()
