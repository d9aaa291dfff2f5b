"""The one way by which a record enters: verified, wherever it comes from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cachetools import LRUCache

from keypost.clock import HOUR
from keypost.protocol.errors import UnknownRecordKeyError
from keypost.protocol.key_info import restore_key_info
from keypost.protocol.realm_trust import CLOCK_SKEW
from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.records import read_record

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from keypost.clock import Clock
    from keypost.errors import KeypostError
    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.realm_trust import RealmTrust
    from keypost_services.directory.metrics import Metrics
    from keypost_services.runtime.realm_trust import Trust


MOST_VERIFIED = 65_536
"""Of so many records it is remembered that they were verified: some 310 bytes each."""


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
        self._verified: LRUCache[bytes, tuple[int, str]] = LRUCache(MOST_VERIFIED)

    async def read_again(self, key_info: key_info_pb2.KeyInfo, serialised: bytes, *, username: str) -> KeyRecord:
        """Return the verified record in ``key_info``, which this process may have verified before, byte for byte.

        Then neither signatures nor what the rules make of its keys have changed. What may have is asked again: whether
        the trust statement is still the one by which it was verified, names its record key now, and it is fresh.

        Args:
            key_info: As it was found.
            serialised: What it was parsed from.
            username: The user that was asked for.

        Raises:
            SourceAwayError, ProtocolError: as :meth:`read`.
        """
        trust, now = self._trust.current(), self._clock()
        digest, known = hashlib.sha256(serialised).digest(), (trust.sequence, username)
        if self._verified.get(digest) != known or not _is_listed(trust, key_info.record.record_key_fingerprint, now):
            record = await self.read(key_info, username=username)
            self._verified[digest] = known
            return record
        record = restore_key_info(key_info)
        record.check_fresh(now)
        return record

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


def _is_listed(trust: RealmTrust, record_key_fingerprint: bytes, now: int) -> bool:
    try:
        trust.record_key(record_key_fingerprint, now)
    except UnknownRecordKeyError:
        return False
    return True
