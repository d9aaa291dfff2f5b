"""The realm's trust statement, as verified from the bundle's root keys and kept current."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from google.protobuf import json_format

from keypost.clock import MINUTE, Clock
from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.realm_trust import RealmTrust, read_realm_trust
from keypost_services.delivery.errors import directory_unavailable
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

REFRESH = 10 * MINUTE
"""How long a statement is used before a newer one is asked for."""
PAUSE = MINUTE // 12
"""So long nobody asks again after an answer: records signed by unknown keys must not become a flood."""


class TrustSource(Protocol):
    """Where trust statements come from: the directory."""

    async def get_realm_trust(self) -> pb.SignedRealmTrust:
        """Return the realm's trust statement, unverified; raises :class:`KeypostError`."""
        ...


def read_root_keys(bundle: Path, realm: str) -> tuple[bytes, ...]:
    """Return the root keys (SubjectPublicKeyInfo, DER) of a bundle file.

    Raises:
        StartError: the file is no bundle, or one of another realm.
    """
    try:
        message = json_format.Parse(bundle.read_text(encoding="utf-8"), pb.Bundle())
    except (OSError, UnicodeDecodeError, json_format.ParseError) as error:
        raise StartError(f"the bundle {bundle} cannot be read: {str(error).splitlines()[0]}") from error
    if message.realm != realm:
        raise StartError(f"the bundle {bundle} is of the realm {message.realm or '(none)'}, not of {realm}")
    if not message.root_keys:
        raise StartError(f"the bundle {bundle} has no root keys")
    return tuple(key.public_key_der for key in message.root_keys)


class Trust:
    """Holds the newest verified trust statement.

    Args:
        source: Where statements come from.
        realm: The realm.
        root_keys: The bundle's, for the first statement.
        clock: The time.
        log: Where refused statements are reported.
    """

    def __init__(
        self,
        source: TrustSource,
        realm: str,
        root_keys: Sequence[bytes],
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        self._source = source
        self._realm = realm
        self._root_keys = root_keys
        self._clock = clock
        self._log = log
        self._held: RealmTrust | None = None
        self._asked = 0
        self._lock = asyncio.Lock()

    async def current(self) -> RealmTrust:
        """Return a trust statement that may be relied upon now.

        Raises:
            ServiceError: DIRECTORY_UNAVAILABLE: there is none.
        """
        held = self._held
        if held is None or self._clock() >= min(held.until_time, self._asked + REFRESH):
            await self._refresh(self._asked)
        return self._reliable()

    async def newer(self) -> RealmTrust:
        """Return the newest statement, for a record that the one at hand does not explain; raises as ``current``."""
        asked = self._asked
        if self._clock() >= asked + PAUSE:
            await self._refresh(asked)
        return self._reliable()

    def _reliable(self) -> RealmTrust:
        if self._held is None or self._clock() >= self._held.until_time:
            raise directory_unavailable()
        return self._held

    async def _refresh(self, asked: int) -> None:
        async with self._lock:
            if self._asked != asked:
                return  # somebody else has asked meanwhile
            try:
                signed = await self._source.get_realm_trust()
                self._held = read_realm_trust(
                    signed, realm=self._realm, root_keys=self._root_keys, now=self._clock(), previous=self._held
                )
            except KeypostError as error:
                # What is held goes on until its own end.
                self._log.warning("trust_refused", reason=error.reason, error=str(error))
            if self._held is not None:
                self._asked = self._clock()
