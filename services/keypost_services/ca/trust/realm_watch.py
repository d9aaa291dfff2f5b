"""Takes up what changes in the realm's files while the CA serves, and says what ends soon."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.errors import KeypostError
from keypost_services.ca.store import StoreAwayError
from keypost_services.ca.trust.realm import check_follows
from keypost_services.ca.trust.realm_files import RealmFilesError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.protocol.realm_trust import RealmTrust
    from keypost_services.ca.audit import AuditEntry
    from keypost_services.ca.metrics import Metrics
    from keypost_services.ca.policy import Policy
    from keypost_services.ca.trust.realm import Realm, ServedRealm
    from keypost_services.runtime.health import Health
    from keypost_services.runtime.metrics import HealthMetrics

PART = "realm"
WARN_BEFORE_END = 30 * DAY
WARN_EVERY = DAY


@dataclass(frozen=True)
class RealmWatch:
    """Looks at the realm's files again and again.

    Attributes:
        load: Returns what the files say, verified; raises RealmFilesError. May block.
        state: Returns something that differs whenever the files differ. May block.
        enter: Enters a statement in the audit log, unless it is there; raises StoreAwayError.
        find_contradicting: Returns the entry of a statement that contradicts one, None if there is none; raises
            StoreAwayError.
        realm: What is served.
        policy: Follows the realm's constants.
        clock: The time.
        log: Where everything is said.
        health: Where a change that is refused is said.
        metrics: Where it is counted.
        health_metrics: Where it is said which trust statement is served.
    """

    load: Callable[[], Realm]
    state: Callable[[], object]
    enter: Callable[[RealmTrust], Awaitable[None]]
    find_contradicting: Callable[[RealmTrust], Awaitable[AuditEntry | None]]
    realm: ServedRealm
    policy: Policy
    clock: Clock
    log: FilteringBoundLogger
    health: Health
    metrics: Metrics
    health_metrics: HealthMetrics

    async def run(self, seconds: float) -> None:
        """Look for ever, every so many seconds."""
        seen, warned_time, refused = None, None, None
        self.measure()
        while True:
            now = self.clock()
            if warned_time is None or not warned_time <= now < warned_time + WARN_EVERY:
                warned_time = now
                self.warn()
            await asyncio.sleep(seconds)
            state = await asyncio.to_thread(self.state)
            # The first look takes up whatever is there: it may have come since the service read the files.
            if state != seen or refused is not None:
                # What is refused now may be in force later: a record key that begins in a moment.
                refused = await self.take_up(refused if state == seen else None)
                seen = state
            self.measure()

    async def take_up(self, known: str | None = None) -> str | None:
        """Serve what the files say now; what cannot be served is refused, and what is served goes on.

        A statement of which the audit log cannot be told, since the database takes nothing, is served all the same, and
        entered as soon as that can be done: a record key that was stolen must end.

        Args:
            known: Why it was refused, or could not be entered or compared, before: that is not said again.

        Returns:
            Why it is refused, or is not entered or compared yet; None: nothing is left to do.
        """
        try:
            realm = await asyncio.to_thread(self.load)
            self._check(realm)
            away = await self._enter(realm.trust)
            self.realm.replace(realm)
            self.policy.follow(realm.trust.constants)
        except (RealmFilesError, KeypostError, ValueError) as error:
            self._refuse(str(error), known)
            return str(error)
        owed = await self.compare(known) if away is None else self._owe_entry(away, known)
        if owed is None or owed != known:
            self.log.info("realm", sequence=realm.trust.sequence, until_time=realm.trust.until_time)
            self.warn()
        return owed

    async def _enter(self, trust: RealmTrust) -> str | None:
        """Enter a statement in the audit log first; return why that cannot be done yet."""
        try:
            await self.enter(trust)
        except StoreAwayError as error:
            return str(error)
        return None

    def _refuse(self, why: str, known: str | None) -> None:
        if why == known:
            return
        self.metrics.realm_refused.inc()
        self.log.error("realm refused", why=why, serving=self.realm.trust.sequence)
        self.health.set_degraded(PART, f"a change of the realm's files is refused: {why}")

    def _owe_entry(self, away: str, known: str | None) -> str:
        why = f"the audit log does not tell of the trust statement yet: {away}"
        return self._owe("trust statement not entered", why, known)

    def _owe(self, event: str, why: str, known: str | None) -> str:
        if why != known:
            self.log.warning(event, why=why, serving=self.realm.trust.sequence)
            self.health.set_degraded(PART, why)
        return why

    async def compare(self, known: str | None = None) -> str | None:
        """Say whether another statement was taken up, here or elsewhere, that contradicts the one that is served.

        It is served all the same: whoever has seen the other one refuses it without being told.

        Args:
            known: Why that could not be told before: it is not said again.

        Returns:
            Why that cannot be told yet; None: it was.
        """
        try:
            other = await self.find_contradicting(self.realm.trust)
        except StoreAwayError as error:
            why = f"the audit log does not say whether there is another trust statement: {error}"
            return self._owe("trust statement not compared", why, known)
        if other is None:
            self.health.set_degraded(PART, None)
        else:
            self._goes_back(other)
        return None

    def _goes_back(self, other: AuditEntry) -> None:
        serving, entered = self.realm.trust.sequence, other.act.revision
        told = f"entry {other.sequence} of the audit log tells of {'another ' * (entered == serving)}{entered}"
        why = f"the realm's files have trust statement {serving}, and {told}"
        if self.health.degraded.get(PART) != why:
            self.log.error("realm goes back", serving=serving, entered=entered, entry=other.sequence)
            self.health.set_degraded(PART, why)

    def warn(self) -> None:
        """Say what ends soon, and which record keys are listed and not here."""
        now, trust = self.clock(), self.realm.trust
        until = min(trust.until_time, self.realm.signs_until)
        if until < now + WARN_BEFORE_END:
            self.log.warning("realm_trust_ends_soon", until_time=until)
        for key in self.realm.missing(now):
            self.log.warning("record_key_missing", fingerprint=key.fingerprint.hex(), from_time=key.from_time)

    def measure(self) -> None:
        """Set the metrics."""
        self.health_metrics.holds_trust(self.realm.trust)
        self.metrics.record_keys_end_time.set(self.realm.signs_until / 1_000)

    def _check(self, realm: Realm) -> None:
        if realm.trust.realm != self.realm.name:
            raise RealmFilesError(f"the trust statement is of {realm.trust.realm}, not of {self.realm.name}")
        check_follows(self.realm.trust, realm.trust)  # before it is entered; to replace asks again
        realm.active(self.clock())
        self.policy.check_follows(realm.trust.constants)
