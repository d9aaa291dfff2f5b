"""An OpenID Connect issuer as the CA knows it: which keys it signs by now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from keypost.clock import MINUTE, SECOND
from keypost_services.ca.sign_in.issuer_keys import read_keys
from keypost_services.ca.sign_in.urls import discovery_url
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from keypost.clock import Clock
    from keypost_services.ca.sign_in.issuer_keys import IssuerKey

KEYS_LIFETIME = 10 * MINUTE
"""How long keys are relied upon: one that the issuer withdraws is not accepted for longer."""
READ_INTERVAL = MINUTE
"""How often an unknown key has them read anew at most: tokens are made up faster than an issuer answers."""
RETRY_INTERVAL = 5 * SECOND
"""How often they are asked for at most while the issuer does not answer."""


class Issuer:
    """Reads the keys of an issuer when they are needed, and keeps them for a while.

    Args:
        url: How the issuer names itself.
        fetch: Returns the JSON at a URL, or raises SourceAwayError.
        clock: Tells the time.
        seconds: How long reading may take altogether.
    """

    def __init__(self, url: str, fetch: Callable[[str], Awaitable[Any]], clock: Clock, seconds: float) -> None:
        self.url = url
        self._fetch = fetch
        self._clock = clock
        self._seconds = seconds
        self._keys: Mapping[str, IssuerKey] = {}
        self._good_until = 0
        self._next_read_time = 0
        self._away: SourceAwayError | None = None
        self._reading: asyncio.Task[None] | None = None

    async def find_key(self, kid: str) -> IssuerKey | None:
        """Return the key of that name, None if the issuer has none.

        Raises:
            SourceAwayError: The issuer would have to be asked, and does not answer as it should.
        """
        if self._held(kid) is None and self._clock() >= self._next_read_time:
            await self._read_once()
        key = self._held(kid)
        if key is None and self._away is not None:
            raise SourceAwayError(str(self._away)) from self._away
        return key

    def _held(self, kid: str) -> IssuerKey | None:
        return self._keys.get(kid) if self._clock() < self._good_until else None

    async def _read_once(self) -> None:
        """Read the keys, once for all who wait; whoever is cancelled takes the answer from nobody."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                self._keys = await self._fetch_keys()
        except (SourceAwayError, TimeoutError) as error:
            self._away = error if isinstance(error, SourceAwayError) else SourceAwayError("the issuer is too slow")
            self._next_read_time = self._clock() + RETRY_INTERVAL
        else:
            self._away = None
            self._good_until, self._next_read_time = self._clock() + KEYS_LIFETIME, self._clock() + READ_INTERVAL
        finally:
            self._reading = None

    async def _fetch_keys(self) -> Mapping[str, IssuerKey]:
        description = await self._fetch(discovery_url(self.url))
        _check_description(description, self.url)
        return read_keys(await self._fetch(description["jwks_uri"]))


def _check_description(description: Any, issuer: str) -> None:
    """Refuse a description of somebody else: whoever serves one could name keys of his own."""
    if not isinstance(description, dict) or description.get("issuer") != issuer:
        raise SourceAwayError("the issuer's description names another issuer")
    if not isinstance(description.get("jwks_uri"), str):
        raise SourceAwayError("the issuer's description does not say where its keys are")
