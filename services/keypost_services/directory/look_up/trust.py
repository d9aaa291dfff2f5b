"""The realm's trust as the directory holds it: verified, refreshed, never going back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.errors import KeypostError
from keypost.protocol.errors import TrustRefusedError
from keypost.protocol.realm_trust import read_realm_trust
from keypost_services.directory.look_up.ports import SourceAwayError
from keypost_services.directory.look_up.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.protocol.realm_trust import RealmTrust
    from keypost_services.directory.look_up.ports import TrustSource
    from keypost_services.directory.metrics import Metrics

RETRY_MS = 1_000
_THE_STATEMENT = "realm-trust"


class TrustKeeper:
    """Holds the newest trust statement.

    Args:
        source: Where statements come from.
        clock: Unix milliseconds.
        log: Where refusals are logged.
        metrics: Where the sequence is shown.
        realm: The realm that statements must be of.
        root_keys: The bundle's root keys (SubjectPublicKeyInfo, DER).
        least_interval_ms: Asked for more often than this, the CA is not asked again.
        on_change: Called with None after a success and with a sentence after a failure.
    """

    def __init__(
        self,
        source: TrustSource,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        *,
        realm: str,
        root_keys: Sequence[bytes],
        least_interval_ms: int,
        on_change: Callable[[str | None], None],
    ) -> None:
        self._source = source
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._realm = realm
        self._root_keys = tuple(root_keys)
        self._least_interval_ms = least_interval_ms
        self._on_change = on_change
        self._trust: RealmTrust | None = None
        self._asked_time: int | None = None
        self._known = asyncio.Event()
        self._flight: SingleFlight[str, None, None] = SingleFlight(self._fetch)

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

    async def refresh(self) -> None:
        """Fetch the statement anew, unless that was done less than the least interval ago.

        A failure is logged, and changes nothing else.
        """
        now = self._clock()
        if self._asked_time is not None and 0 <= now - self._asked_time < self._least_interval_ms:
            return
        await self._flight.ask({_THE_STATEMENT: None})

    async def wait_until_known(self) -> None:
        """Return once a statement has been verified."""
        await self._known.wait()

    async def keep_fresh(self, interval_ms: int) -> None:
        """Refresh the statement for ever: every ``interval_ms``, and sooner while it is not known."""
        while True:
            await self._flight.ask({_THE_STATEMENT: None})
            wait_ms = interval_ms if self._is_known() else RETRY_MS
            await asyncio.sleep(wait_ms / 1000)

    async def close(self) -> None:
        """End what is under way."""
        await self._flight.close()

    async def _fetch(self, questions: Mapping[str, None]) -> Mapping[str, None]:
        self._asked_time = self._clock()
        try:
            await self._replace()
        except SourceAwayError as error:
            self._note(str(error))
        except KeypostError as error:
            self._log.error("realm trust refused", reason=error.reason, why=str(error))
            self._note(f"the CA's trust statement is refused: {error.reason}")
        else:
            self._on_change(None)
        return questions

    async def _replace(self) -> None:
        signed = await self._source.fetch_trust()
        trust = read_realm_trust(
            signed, realm=self._realm, root_keys=self._root_keys, now=self._clock(), previous=self._trust
        )
        if self._trust is None or trust.sequence != self._trust.sequence:
            self._log.info("realm trust", sequence=trust.sequence, until_time=trust.until_time)
        self._trust = trust
        self._metrics.trust_sequence.set(trust.sequence)
        self._known.set()

    def _note(self, why: str) -> None:
        # What is held goes on being served while it may be relied upon.
        self._on_change(None if self._is_known() else why)

    def _is_known(self) -> bool:
        try:
            self.current()
        except SourceAwayError:
            return False
        return True
