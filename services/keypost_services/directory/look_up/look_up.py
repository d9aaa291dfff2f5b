"""Look-ups of one and many users: process memory, then Redis, then the CA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import TTLCache

from keypost_services.directory.look_up.ports import Failure, Outcome
from keypost_services.directory.look_up.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.clock import Clock
    from keypost_services.directory.key_events.standing import Standing
    from keypost_services.directory.look_up.fetch import Fetch
    from keypost_services.directory.look_up.ports import RecordStore
    from keypost_services.directory.metrics import Metrics
    from keypost_services.directory.store_process import ProcessStore

MOST_REMEMBERED = 50_000


class LookUp:
    """Finds records. Whatever it returns is verified, fresh and not older than anything returned before.

    Args:
        process: The first tier.
        store: The shared tier.
        fetch: Asks the other tiers.
        standing: Says how old a record may be without asking the CA.
        clock: Unix milliseconds.
        metrics: Where look-ups are counted.
        negative_ms: How long it is remembered that a user does not exist.
        unconfirmed_ms: How long it is remembered that the CA did not confirm a min_revision.
    """

    def __init__(
        self,
        process: ProcessStore,
        store: RecordStore,
        fetch: Fetch,
        standing: Standing,
        clock: Clock,
        metrics: Metrics,
        *,
        negative_ms: int,
        unconfirmed_ms: int,
    ) -> None:
        self._process = process
        self._store = store
        self._fetch = fetch
        self._standing = standing
        self._metrics = metrics
        self._absent: TTLCache[str, bool] = TTLCache(MOST_REMEMBERED, negative_ms, timer=clock)
        self._unconfirmed: TTLCache[str, bool] = TTLCache(MOST_REMEMBERED, unconfirmed_ms, timer=clock)
        self._flight: SingleFlight[str, int, Outcome] = SingleFlight(self._run)

    async def find(self, username: str, *, min_revision: int = 0) -> Outcome:
        """Return the user's record, or why there is none.

        Args:
            username: A valid username.
            min_revision: The caller has reason to believe that this revision exists; the answer may still be lower.
        """
        return (await self.find_many([username], min_revision=min_revision))[username]

    async def find_many(self, usernames: Sequence[str], *, min_revision: int = 0) -> dict[str, Outcome]:
        """Return the outcome for each of these users."""
        outcomes = self._held(usernames, min_revision)
        missing = {username: min_revision for username in usernames if username not in outcomes}
        return outcomes | await self._ask(missing) if missing else outcomes

    async def drop_many(self, floors: Mapping[str, int]) -> None:
        """Forget what was held of these users below the floors: in this process at once, then in the shared tier.

        Args:
            floors: The revision that each user's record is known to have reached.
        """
        for username in floors:
            self._absent.pop(username, None)
        await self._process.drop_many(floors)
        await self._store.drop_many(floors)

    async def drop_all(self) -> None:
        """Serve nothing that is held: of this process at once, then of the shared tier.

        What revision a user had reached is remembered: no record below it is served, whatever the CA says then.
        """
        self._absent.clear()
        self._process.drop_records()
        await self._store.drop_all()

    async def close(self) -> None:
        """End what is under way."""
        await self._flight.close()

    def _held(self, usernames: Sequence[str], min_revision: int) -> dict[str, Outcome]:
        """Return what this process knows of these users."""
        oldest = self._standing.oldest()
        outcomes: dict[str, Outcome] = {}
        records = self._process.fresh(usernames)
        for username, record in records.items():
            is_enough = record.revision >= min_revision or username in self._unconfirmed
            if is_enough and record.this_update >= oldest:
                outcomes[username] = record
        if outcomes:
            self._metrics.look_ups_of("process").inc(len(outcomes))
        if len(outcomes) < len(usernames):
            outcomes |= self._known_absent([name for name in usernames if name not in records], min_revision)
        return outcomes

    def _known_absent(self, usernames: Sequence[str], min_revision: int) -> dict[str, Outcome]:
        absent = [
            name for name in usernames if name in self._absent and (not min_revision or name in self._unconfirmed)
        ]
        self._metrics.look_ups_of("negative").inc(len(absent))
        return dict.fromkeys(absent, Failure.NOT_FOUND)

    async def _ask(self, questions: Mapping[str, int]) -> dict[str, Outcome]:
        outcomes, joined = await self._flight.ask(questions)
        # What was under way may have begun before the revision existed that this caller knows of.
        again = {username: questions[username] for username in joined if self._is_short(outcomes, username, questions)}
        if again:
            outcomes |= (await self._flight.ask(again))[0]
        for username, min_revision in questions.items():
            if min_revision and self._is_short(outcomes, username, questions):
                self._unconfirmed[username] = True
        return outcomes

    def _is_short(self, outcomes: Mapping[str, Outcome], username: str, questions: Mapping[str, int]) -> bool:
        wanted = max(questions[username], self._process.floor(username))
        return wanted > 0 and outcomes[username] is not Failure.UNAVAILABLE and _revision(outcomes[username]) < wanted

    async def _run(self, questions: Mapping[str, int]) -> Mapping[str, Outcome]:
        outcomes = await self._fetch.fetch(questions)
        for username, outcome in outcomes.items():
            # A user whose event came meanwhile does exist.
            if outcome is Failure.NOT_FOUND and not self._process.floor(username):
                self._absent[username] = True
        return outcomes


def _revision(outcome: Outcome) -> int:
    return 0 if isinstance(outcome, Failure) else outcome.revision
