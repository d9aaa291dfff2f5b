"""What process memory does not have: from Redis, and what that does not have from the CA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.errors import KeypostError
from keypost_services.directory.look_up.ports import Failure, Outcome
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.protocol.key_info import KeyRecord
    from keypost_services.directory.key_events.standing import Standing
    from keypost_services.directory.look_up.arrow import Arrow
    from keypost_services.directory.look_up.ca_tier import CaTier
    from keypost_services.directory.look_up.ports import RecordStore
    from keypost_services.directory.look_up.verifier import Verifier
    from keypost_services.directory.metrics import Metrics
    from keypost_services.directory.store_process import ProcessStore


class Fetch:
    """Answers what process memory could not.

    Args:
        process: Process memory: what is fresh there is the answer where the CA gives none.
        store: The shared tier (Redis); it does not raise when it is away.
        ca: The last tier.
        arrow: Compares what comes out of it with what was seen before, and keeps it.
        standing: Says how old a record may be without asking the CA.
        verifier: Notes what is refused.
        metrics: Where look-ups are counted.
    """

    def __init__(
        self,
        *,
        process: ProcessStore,
        store: RecordStore,
        ca: CaTier,
        arrow: Arrow,
        standing: Standing,
        verifier: Verifier,
        metrics: Metrics,
    ) -> None:
        self._process = process
        self._store = store
        self._ca = ca
        self._arrow = arrow
        self._standing = standing
        self._verifier = verifier
        self._metrics = metrics

    async def fetch(self, questions: Mapping[str, int]) -> Mapping[str, Outcome]:
        """Return the outcome for each of these (1 to 100) users.

        A record that is fresh but old is the answer where the CA gives none. One that is lower than asked for is not:
        only the CA can say that there is no higher one, and whoever calls with a key that it has just recorded must not
        be taken for a stranger.

        Args:
            questions: The revision that is wanted at least, by username.
        """
        shared = await self._from_store(list(questions))
        found = {name: record for name, record in shared.items() if self._is_enough(record, questions[name])}
        self._metrics.look_ups_of("redis").inc(len(found))
        asked = [username for username in questions if username not in found]
        return {**found, **await self._from_ca({name: questions[name] for name in asked})} if asked else found

    async def _from_store(self, usernames: Sequence[str]) -> dict[str, KeyRecord]:
        accepted = {}
        for username, record in (await self._store.get_many(usernames)).items():
            try:
                self._arrow.accept(record)
                accepted[username] = record
            except SourceAwayError:
                continue
            except KeypostError as error:
                self._verifier.refused(error, username=username, source="redis")
        return accepted

    async def _from_ca(self, questions: Mapping[str, int]) -> Mapping[str, Outcome]:
        outcomes = await self._ca.get_many(list(questions))
        await self._store.put_many([outcome for outcome in outcomes.values() if not isinstance(outcome, Failure)])
        return {name: self._or_held(name, outcome, questions[name]) for name, outcome in outcomes.items()}

    def _or_held(self, username: str, outcome: Outcome, min_revision: int) -> Outcome:
        held = self._process.get(username)
        if outcome is Failure.UNAVAILABLE and held is not None and held.revision >= min_revision:
            self._metrics.look_ups_of("process").inc()
            return held
        self._metrics.look_ups_of("none" if outcome is Failure.UNAVAILABLE else "ca").inc()
        return outcome

    def _is_enough(self, record: KeyRecord, min_revision: int) -> bool:
        wanted = max(min_revision, self._arrow.floor(record.username))
        return record.revision >= wanted and record.this_update >= self._standing.oldest()
