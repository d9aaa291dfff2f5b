"""The one way by which a record enters: verified, wherever it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import HOUR
from keypost.protocol.errors import UnknownRecordKeyError
from keypost.protocol.key_info import read_key_info
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost_services.directory.look_up.ports import SourceAwayError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.errors import KeypostError
    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.directory.look_up.ports import Trust
    from keypost_services.directory.metrics import Metrics


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

    async def read(self, key_info: key_info_pb2.KeyInfo, *, username: str, source: str) -> KeyRecord:
        """Return the verified record in ``key_info``.

        A record key that is unknown makes the realm's trust be fetched anew, once.

        Args:
            key_info: As received.
            username: The user that was asked for.
            source: Where it comes from, for the log: ``redis`` or ``ca``.

        Raises:
            SourceAwayError: the realm's trust is not known.
            ProtocolError: what :func:`keypost.protocol.key_info.read_key_info` raises.
        """
        try:
            return self._read(key_info, username)
        except UnknownRecordKeyError:
            self._log.info("unknown record key", username=username, source=source)
            await self._trust.refresh()
        return self._read(key_info, username)

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

    def _read(self, key_info: key_info_pb2.KeyInfo, username: str) -> KeyRecord:
        return read_key_info(key_info, trust=self._trust.current(), username=username, now=self._clock())
