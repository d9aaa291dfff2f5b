"""The directory resolves the tokens of its own callers by its own look-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.directory.errors import ca_unavailable
from keypost_services.directory.look_up.ports import Failure
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.realm_trust import Constants
    from keypost_services.directory.look_up.look_up import LookUp
    from keypost_services.runtime.realm_trust import Trust


class DirectoryRecords:
    """The records of callers.

    Args:
        look_up: Where records are found.
        trust: The realm's trust.
    """

    def __init__(self, look_up: LookUp, trust: Trust) -> None:
        self._look_up = look_up
        self._trust = trust

    async def find_record(self, username: str, min_revision: int) -> KeyRecord | None:
        """Return the record of a user, None if there is no such user; raises CA_UNAVAILABLE.

        A revision that the CA does not confirm is not asked for again for a moment.
        """
        outcome = await self._look_up.find(username, min_revision=min_revision)
        if outcome is Failure.UNAVAILABLE:
            raise ca_unavailable()
        return None if isinstance(outcome, Failure) else outcome

    async def constants(self) -> Constants:
        """Return the realm's constants; raises CA_UNAVAILABLE."""
        try:
            return self._trust.current().constants
        except SourceAwayError as error:
            raise ca_unavailable() from error
