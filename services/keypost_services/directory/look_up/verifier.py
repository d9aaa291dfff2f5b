"""The one way by which a record enters: verified, wherever it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import HOUR
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.records import read_record

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.errors import KeypostError
    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.directory.metrics import Metrics
    from keypost_services.runtime.realm_trust import Trust


class Verifier:
    """Verifies key info against the realm's trust, and notes what is refused.

    Args:
        trust: The realm's trust.
        clock: Unix milliseconds.
        log: Where refusals are logged.
        metrics: Where they are counted.
    """

    def __init__(self, trust: Trust, clock: Clock, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._trust = trust
        self._clock = clock
        self._log = log
        self._metrics = metrics

    async def read(self, key_info: key_info_pb2.KeyInfo, *, username: str) -> KeyRecord:
        """Return the verified record in ``key_info``.

        Args:
            key_info: As received.
            username: The user that was asked for.

        Raises:
            SourceAwayError: the realm's trust is not known.
            ProtocolError: what :func:`keypost.protocol.key_info.read_key_info` raises.
        """
        return await read_record(key_info, trust=self._trust, username=username, now=self._clock())

    def refused(self, error: KeypostError, *, username: str, source: str) -> None:
        """Note that what ``source`` gave for ``username`` is not believed."""
        self._metrics.refused.labels(source=source, reason=error.reason).inc()
        level = self._log.error if source == "ca" else self._log.warning
        level("record refused", source=source, username=username, reason=error.reason, why=str(error))

    def longest_lifetime(self) -> int:
        """Return how long a record could be fresh from now on, in milliseconds."""
        try:
            return self._trust.current().constants.record_lifetime + CLOCK_SKEW
        except SourceAwayError:
            return HOUR + CLOCK_SKEW
