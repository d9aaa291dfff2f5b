"""The last tier: the CA, asked in batches, verified, and held to time's arrow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.errors import KeypostError
from keypost_services.directory.look_up.ports import Failure, Outcome
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keypost.keys.v1 import key_info_pb2
    from keypost_services.directory.look_up.arrow import Arrow
    from keypost_services.directory.look_up.ports import KeySource
    from keypost_services.directory.look_up.verifier import Verifier
    from keypost_services.directory.metrics import Metrics
    from keypost_services.runtime.breaker import Breaker

SOURCE = "ca"


class CaTier:
    """Asks the CA; whatever it accepts is kept in process memory at once.

    Args:
        source: The CA.
        verifier: Verifies what the CA says.
        arrow: Compares it with what was seen before, and keeps it.
        breaker: Says whether to ask a CA that did not answer.
        metrics: Where questions are counted.
        on_change: Called with None when the CA answers, and with a sentence when it does not.
    """

    def __init__(
        self,
        source: KeySource,
        verifier: Verifier,
        arrow: Arrow,
        breaker: Breaker,
        metrics: Metrics,
        on_change: Callable[[str | None], None],
    ) -> None:
        self._source = source
        self._verifier = verifier
        self._arrow = arrow
        self._breaker = breaker
        self._metrics = metrics
        self._on_change = on_change

    async def get_many(self, usernames: Sequence[str]) -> Mapping[str, Outcome]:
        """Return what the CA says of these (1 to 100) users."""
        answered = await self._ask(usernames)
        # A key event that came while the CA answered makes the answer old, not wrong.
        overtaken = [username for username, outcome in answered.items() if outcome is None]
        if overtaken:
            answered |= await self._ask(overtaken)
        return {username: outcome or Failure.UNAVAILABLE for username, outcome in answered.items()}

    async def _ask(self, usernames: Sequence[str]) -> dict[str, Outcome | None]:
        floors = {username: self._arrow.floor(username) for username in usernames}
        try:
            answers = await self._fetch(usernames)
        except SourceAwayError:
            return dict.fromkeys(usernames, Failure.UNAVAILABLE)
        outcomes: dict[str, Outcome | None] = {}
        for username in usernames:
            outcomes[username] = await self._outcome(username, answers.get(username), floors[username])
            # A batch of a hundred must not hold up everybody else.
            await asyncio.sleep(0)
        return outcomes

    async def _fetch(self, usernames: Sequence[str]) -> Mapping[str, key_info_pb2.KeyInfo]:
        if not self._breaker.admit():
            self._metrics.ca_questions.labels(outcome="not_asked").inc()
            raise SourceAwayError("the CA did not answer a moment ago")
        try:
            answers = await self._source.fetch(usernames)
        except SourceAwayError as error:
            self._metrics.ca_questions.labels(outcome="away").inc()
            self._breaker.failed()
            self._on_change(str(error))
            raise
        self._metrics.ca_questions.labels(outcome="answered").inc()
        self._breaker.succeeded()
        self._on_change(None)
        return answers

    async def _outcome(self, username: str, key_info: key_info_pb2.KeyInfo | None, floor: int) -> Outcome | None:
        try:
            if key_info is None:
                self._arrow.accept_absence(username)
                return Failure.NOT_FOUND
            record = await self._verifier.read(key_info, username=username)
            self._arrow.accept(record)
        except SourceAwayError:
            return Failure.UNAVAILABLE
        except KeypostError as error:
            if self._arrow.floor(username) > floor:
                return None
            self._verifier.refused(error, username=username, source=SOURCE)
            return Failure.UNAVAILABLE
        return record
