"""Time's arrow within the directory: what was verified once is never followed by something older."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.continuity import check_successor
from keypost.protocol.errors import RecordRegressedError

if TYPE_CHECKING:
    from keypost.protocol.key_info import KeyRecord
    from keypost_services.directory.store_process import ProcessStore
    from keypost_services.runtime.realm_trust import Trust


class Arrow:
    """Judges verified records by what this process has seen before.

    Args:
        process: What was verified before, and the floors that key events raised.
        trust: The realm's trust, for its constants.
    """

    def __init__(self, process: ProcessStore, trust: Trust) -> None:
        self._process = process
        self._trust = trust

    def floor(self, username: str) -> int:
        """Return the lowest revision that may be served; 0 if nothing is known of the user."""
        return self._process.floor(username)

    def accept(self, record: KeyRecord) -> None:
        """Keep ``record`` in process memory, if it may follow what was seen before.

        Raises:
            RecordRegressedError: its revision is below one already verified or announced.
            SourceAwayError: the realm's trust is not known.
            ProtocolError: what :func:`keypost.protocol.continuity.check_successor` raises.
        """
        self._check_floor(record)
        if (previous := self._process.latest(record.username)) is not None:
            check_successor(previous, record, self._trust.current().constants)
        self._process.put(record)

    def _check_floor(self, record: KeyRecord) -> None:
        floor = self.floor(record.username)
        if record.revision < floor:
            raise RecordRegressedError(
                f"revision {record.revision} of {record.username} comes after {floor} was seen",
                username=record.username,
            )

    def accept_absence(self, username: str) -> None:
        """Let it stand that there is no such user.

        Raises:
            RecordRegressedError: the user was seen before, and users are never removed.
        """
        if self.floor(username):
            raise RecordRegressedError(f"{username} was seen before, and users are never removed", username=username)
