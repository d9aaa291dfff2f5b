"""Messages of one conversation that wait in memory to be begun: kept unsealed where that takes long."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from keypost.client.outgoing import Drawing, Item, keep_early
from keypost.errors import KeypostError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from keypost.client.context import Context
    from keypost.client.outgoing import Filled
    from keypost.keystore.errors import KeyStoreFullError
    from keypost.protocol.identifiers import Address

KEEP_AFTER = 0.5
"""Seconds that a message waits in memory alone: whatever it waits for, it is then kept unsealed."""
MOST_TOGETHER = 64
MOST_BYTES_TOGETHER = 1024 * 1024
"""How much is kept in one transaction."""
EARLY = 0.001
"""Seconds: a timer may be early by as much as the loop's clock is coarse."""


class EarlyKeeper:
    """Has messages outlive a crash that wait for keys, for answers or for room: it keeps them as they are.

    What it has kept is read from the outbox in its turn, like what a crash left there.

    Args:
        recipient: The other user.
        context: What all parts share.
        address: Returns the own address.
        copies_wanted: Returns whether the own other devices get a copy.
        on_kept: Told what was kept, and what was refused.
        on_change: Called when what waits may go on.

    Attributes:
        fresh: What waits to be begun, in order.
        kept: Who waits for what was kept early, by id.
        turn: Whoever draws counters, or reads the outbox, holds it.
        no_room: Why what waits is not kept; None if there was room when it was tried last.
    """

    def __init__(
        self,
        recipient: str,
        context: Context,
        address: Callable[[], Address],
        copies_wanted: Callable[[], bool],
        *,
        on_kept: Callable[[Filled], None],
        on_change: Callable[[], None],
    ) -> None:
        self._recipient = recipient
        self._context = context
        self._address = address
        self._copies_wanted = copies_wanted
        self._on_kept = on_kept
        self._on_change = on_change
        self.fresh: deque[Item] = deque()
        self.kept: dict[bytes, Item] = {}
        self.turn = asyncio.Lock()
        self.no_room: KeyStoreFullError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def keep_later(self) -> None:
        """Look after a while whether anything still waits, and keep it then."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEEP_AFTER, self._begin)

    async def keep(self, *, age: float) -> bool:
        """Keep what has waited for so many seconds; return whether there may be more."""
        async with self.turn:
            self.no_room = None
            early = self._take(asyncio.get_running_loop().time() - age + EARLY)
            if not early:
                return False
            me, context = self._address().username, self._context
            drawing = Drawing(me, self._recipient, context.clock(), context.random, self._copies_wanted())
            try:
                filled = await context.store.begin_together(keep_early, drawing, early)
            except BaseException as error:
                self.fresh.extendleft(reversed(early))
                if isinstance(error, Exception):
                    self._on_change()
                raise
            # The lane does not end meanwhile, but it may have stopped.
            self._on_change()
            for item, message in filled.unsealed:
                item.message, item.content = message, None
                self.kept[message.message_id] = item
            done = len(filled.unsealed) + len(filled.refused)
            self.fresh.extendleft(reversed(early[done:]))
            self.no_room = filled.no_room
            self._on_kept(filled)
            return bool(done)

    def let_go(self) -> Collection[Item]:
        """Forget who waits for what was kept early, and return them."""
        kept, self.kept = self.kept, {}
        return kept.values()

    async def close(self) -> None:
        """Keep nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self) -> None:
        self._timer = None
        if self.fresh and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._keep_what_waits())

    async def _keep_what_waits(self) -> None:
        # What the key store fails at, whoever seals next will be told.
        with suppress(KeypostError):
            while await self.keep(age=KEEP_AFTER):
                pass
            if self.fresh:
                self.keep_later()

    def _take(self, latest: float) -> list[Item]:
        group: list[Item] = []
        size = 0
        while self.fresh and len(group) < MOST_TOGETHER:
            item = self.fresh[0]
            size += item.size
            if item.put_time > latest or not item.keep or (group and size > MOST_BYTES_TOGETHER):
                break
            group.append(self.fresh.popleft())
        return group
