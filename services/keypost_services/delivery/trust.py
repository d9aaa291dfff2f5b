"""The realm's constants, as delivery goes by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.delivery.errors import directory_unavailable
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from keypost.protocol.realm_trust import Constants
    from keypost_services.runtime.realm_trust import TrustKeeper


async def realm_constants(trust: TrustKeeper) -> Constants:
    """Return the realm's constants.

    Raises:
        ServiceError: DIRECTORY_UNAVAILABLE: there is no trust statement that can be relied upon.
    """
    try:
        return (await trust.reliable()).constants
    except SourceAwayError as error:
        raise directory_unavailable() from error
