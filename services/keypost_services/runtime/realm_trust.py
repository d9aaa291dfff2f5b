"""The realm's trust as a service holds it: verified from the bundle's root keys, refreshed, never going back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from keypost.clock import SECOND
from keypost.errors import KeypostError
from keypost.protocol.errors import TrustRefusedError
from keypost.protocol.realm_trust import follow_realm_trust, later_than, retires
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.protocol.realm_trust import RealmTrust, ServedTrust
    from keypost_services.runtime.metrics import HealthMetrics
    from keypost_services.runtime.serving import Runtime

RETRY_SECONDS = 1.0
LEAST_INTERVAL = SECOND
"""So long nobody is asked again: records signed by unknown keys must not become a flood."""


class Trust(Protocol):
    """The realm's trust as verification needs it."""

    def current(self) -> RealmTrust:
        """Return the newest statement seen.

        Raises:
            SourceAwayError: none is known, or it has expired.
        """

    async def refresh(self) -> None:
        """Fetch it anew, unless that was done a moment ago; failures are logged and change nothing."""


class TrustKeeper:
    """Holds the newest trust statement.

    Args:
        fetch: Returns the current statement and all by which root keys handed over, unverified; raises SourceAwayError
            or KeypostError.
        clock: Unix milliseconds.
        log: Where refusals are logged.
        realm: The realm that statements must be of.
        root_keys: The bundle's root keys (SubjectPublicKeyInfo, DER).
        on_change: Called with None after a success and with a sentence after a failure.
        metrics: Where it is said which statement is held, and until when.
        on_retired: Called when a statement ends a record key before its time: what that key signed counts no more.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[ServedTrust]],
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        realm: str,
        root_keys: Sequence[bytes],
        on_change: Callable[[str | None], None],
        metrics: HealthMetrics | None = None,
        on_retired: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._log = log
        self._realm = realm
        self._root_keys = tuple(root_keys)
        self._on_change = on_change
        self._metrics = metrics
        self._on_retired = on_retired
        self._trust: RealmTrust | None = None
        self._served: ServedTrust | None = None
        self._asked_time: int | None = None
        self._known = asyncio.Event()
        self._question: asyncio.Task[None] | None = None

    def current(self) -> RealmTrust:
        """Return the newest statement seen.

        Raises:
            SourceAwayError: none is known, or it has expired.
        """
        if self._trust is None:
            raise SourceAwayError("the realm's trust is not known yet")
        try:
            self._trust.check_current(self._clock())
        except TrustRefusedError as error:
            raise SourceAwayError(str(error)) from error
        return self._trust

    def served(self, after_sequence: int) -> ServedTrust:
        """Return what whoever holds the statement of this sequence (0: none) needs to believe the newest one.

        Raises:
            SourceAwayError: none is known, or it has expired.
        """
        self.current()
        if self._served is None:
            raise AssertionError
        return later_than(self._served, after_sequence)

    async def reliable(self) -> RealmTrust:
        """Return the newest statement seen; where there is none, ask for one first.

        Raises:
            SourceAwayError: there is still none.
        """
        if not self._is_known():
            await self.refresh()
        return self.current()

    async def refresh(self) -> None:
        """Fetch the statement anew, unless that was done less than the least interval ago.

        A failure is logged, and changes nothing else.
        """
        if self._question is None and self._was_asked_lately():
            return
        await self._ask()

    async def wait_until_known(self) -> None:
        """Return once a statement has been verified."""
        await self._known.wait()

    async def keep_fresh(self, seconds: float) -> None:
        """Refresh the statement for ever: every so many seconds, and sooner while it is not known."""
        while True:
            await self._ask()
            await asyncio.sleep(seconds if self._is_known() else RETRY_SECONDS)

    async def close(self) -> None:
        """End what is under way."""
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait([self._question])

    async def _ask(self) -> None:
        """Ask, once for everybody who wants to know; goes on if the one who asked first goes away."""
        if self._question is None:
            self._asked_time = self._clock()
            self._question = asyncio.create_task(self._replace())
            self._question.add_done_callback(self._answered)
        await asyncio.shield(self._question)

    def _answered(self, question: asyncio.Task[None]) -> None:
        self._question = None
        if not question.cancelled():
            question.exception()  # whoever waited has it

    async def _replace(self) -> None:
        try:
            served = await self._fetch()
        except (SourceAwayError, KeypostError) as error:
            self._note(str(error))
            return
        try:
            trust = follow_realm_trust(
                served, realm=self._realm, root_keys=self._root_keys, now=self._clock(), previous=self._trust
            )
        except KeypostError as error:
            self._log.error("realm trust refused", reason=error.reason, why=str(error))
            self._note(f"the realm's trust statement is refused: {error.reason}")
            return
        retired = self._trust is not None and retires(self._trust, trust, self._clock())
        self._keep(trust, served)
        if retired and self._on_retired is not None:
            self._log.warning("a record key was retired before its time", sequence=trust.sequence)
            await self._on_retired()

    def _keep(self, trust: RealmTrust, served: ServedTrust) -> None:
        if self._trust is None or trust.sequence != self._trust.sequence:
            self._log.info("realm trust", sequence=trust.sequence, until_time=trust.until_time)
        self._trust, self._served = trust, served
        if self._metrics is not None:
            self._metrics.holds_trust(trust)
        self._known.set()
        self._on_change(None)

    def _note(self, why: str) -> None:
        # What is held goes on being used while it may be relied upon.
        self._on_change(None if self._is_known() else why)

    def _was_asked_lately(self) -> bool:
        return self._asked_time is not None and 0 <= self._clock() - self._asked_time < LEAST_INTERVAL

    def _is_known(self) -> bool:
        try:
            self.current()
        except SourceAwayError:
            return False
        return True


def trust_keeper(
    runtime: Runtime[Any],
    fetch: Callable[[], Awaitable[ServedTrust]],
    root_keys: Sequence[bytes],
    on_retired: Callable[[], Awaitable[None]],
) -> TrustKeeper:
    """Return the keeper of a service that can do nothing without the realm's trust.

    Args:
        runtime: What the service is composed with; its health and metrics say what is held.
        fetch: Returns the current statement and all by which root keys handed over, unverified.
        root_keys: The bundle's root keys (SubjectPublicKeyInfo, DER).
        on_retired: Called when a statement ends a record key before its time.
    """
    return TrustKeeper(
        fetch,
        runtime.clock,
        runtime.log,
        realm=runtime.settings.realm,
        root_keys=root_keys,
        on_change=lambda why: runtime.health.set_degraded("trust", why, blocks=True),
        metrics=runtime.health_metrics,
        on_retired=on_retired,
    )
