"""What of the database is worth knowing: asked by the CA now and then, since a scrape must cost nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost_services.ca.store import StoreAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keypost.clock import Clock
    from keypost_services.ca.metrics import Metrics
    from keypost_services.ca.store import Store

PART = "measuring"
SEQUENCE_SECONDS = 15.0
KEYS_EVERY = 20
"""Keys are counted at every twentieth look: five minutes."""
WITHIN: Mapping[str, int] = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}


@dataclass(frozen=True)
class Measuring:
    """Looks into the database.

    Attributes:
        store: The database.
        clock: The time.
        metrics: Where it is said what was found.
        on_change: Told why nothing can be found, or None.
    """

    store: Store
    clock: Clock
    metrics: Metrics
    on_change: Callable[[str | None], None]

    async def run(self) -> None:
        """Look for ever."""
        looks = 0
        while True:
            try:
                await self.look(keys=looks % KEYS_EVERY == 0)
            except StoreAwayError as error:
                self.on_change(str(error))
            else:
                self.on_change(None)
                looks += 1
            await asyncio.sleep(SEQUENCE_SECONDS)

    async def look(self, *, keys: bool) -> None:
        """Look once; raises StoreAwayError.

        Args:
            keys: Count the keys that end too.
        """
        self.metrics.newest_sequence.set(await self.store.newest_sequence())
        if keys:
            now = self.clock()
            for name, within in WITHIN.items():
                self.metrics.keys_ending.labels(name).set(await self.store.count_ending(now, now + within))
