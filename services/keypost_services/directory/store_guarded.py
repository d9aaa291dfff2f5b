"""A store that may be away: look-ups go on without it, and what it missed is made good before it is used again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.directory.look_up.ports import StoreAwayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from keypost.protocol.key_info import KeyRecord
    from keypost_services.directory.look_up.ports import Position, RecordStore
    from keypost_services.runtime.breaker import Breaker

MOST_MISSED = 10_000


class GuardedStore:
    """A RecordStore and Position over others that may fail; it never raises StoreAwayError itself.

    Args:
        store: The store that may be away.
        position: The position kept beside it.
        breaker: Says when to try again.
        on_change: Called with None when the store is back, and with a sentence when it is away.
        on_failure: Called whenever the store was asked and did not answer.
    """

    def __init__(
        self,
        store: RecordStore,
        position: Position,
        breaker: Breaker,
        on_change: Callable[[str | None], None],
        *,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._position = position
        self._breaker = breaker
        self._on_change = on_change
        self._on_failure = on_failure
        self._missed: dict[str, int] = {}
        self._wiped = self._wipe_wanted = 0

    async def get_many(self, usernames: Sequence[str]) -> Mapping[str, KeyRecord]:
        """Return what the store has; nothing while it is away."""
        found: dict[str, KeyRecord] = {}

        async def get() -> None:
            found.update(await self._store.get_many(usernames))

        await self._try(get)
        return found

    async def put_many(self, records: Sequence[KeyRecord]) -> None:
        """Keep these records, unless the store is away."""
        await self._try(lambda: self._store.put_many(records))

    async def drop_many(self, floors: Mapping[str, int]) -> None:
        """Raise these floors, now or before the store is used again."""
        for username, floor in floors.items():
            self._missed[username] = max(floor, self._missed.get(username, 0))
        if len(self._missed) > MOST_MISSED:
            self._wipe_wanted += 1
            self._missed.clear()
        await self._try(_nothing)

    async def drop_all(self) -> None:
        """Forget everything, now or before the store is used again."""
        self._wipe_wanted += 1
        self._missed.clear()
        await self._try(_nothing)

    async def read(self) -> int | None:
        """Return the position; None also while the store is away."""
        positions: list[int | None] = [None]

        async def read() -> None:
            positions.append(await self._position.read())

        await self._try(read)
        return positions[-1]

    async def advance(self, sequence: int) -> None:
        """Advance the position, unless the store is away: what it missed comes first."""
        await self._try(lambda: self._position.advance(sequence))

    async def _try(self, action: Callable[[], Awaitable[None]]) -> None:
        if not self._breaker.admit():
            return
        was_away = self._breaker.is_away
        try:
            await self._make_good()
            await action()
        except StoreAwayError as error:
            self._breaker.failed()
            self._on_failure()
            if not was_away:
                self._on_change(str(error))
            return
        self._breaker.succeeded()
        if was_away:
            self._on_change(None)

    async def _make_good(self) -> None:
        if (wanted := self._wipe_wanted) > self._wiped:
            await self._store.drop_all()
            self._wiped = max(self._wiped, wanted)
        if self._missed:
            floors = dict(self._missed)
            await self._store.drop_many(floors)
            for username, floor in floors.items():
                if self._missed.get(username) == floor:
                    del self._missed[username]


async def _nothing() -> None:
    """Only what was missed is to be made good."""
