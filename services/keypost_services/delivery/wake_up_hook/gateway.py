"""The push gateway, over HTTPS: one POST, and what its answer means."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import aiohttp

from keypost_services.delivery.wake_up_hook.signature import signed_headers

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from keypost.clock import Clock

MOST_CONNECTIONS = 16
MOST_RETRY_AFTER_SECONDS = 600
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class GatewayAwayError(Exception):
    """The gateway could not be reached, or says that it may be asked again.

    Attributes:
        retry_after: How long it wants to be left alone, seconds; 0 if it does not say.
    """

    def __init__(self, why: str, retry_after: float = 0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class GatewayRefusedError(Exception):
    """The gateway does not take this wake-up, and would not if it came again."""


class Gateway(Protocol):
    """Where wake-ups go."""

    async def post(self, message_id: str, body: bytes) -> None:
        """Hand a wake-up over.

        Args:
            message_id: The same for every attempt at one wake-up.
            body: JSON.

        Raises:
            GatewayAwayError: Try again.
            GatewayRefusedError: Do not.
        """
        ...


@dataclass(frozen=True)
class HttpsGateway:
    """A gateway behind a URL.

    Attributes:
        url: Beginning with ``https://``.
        secrets: See ``signature``.
        clock: The time.
        seconds: How long an attempt may take.
        session: Makes the requests.
    """

    url: str
    secrets: Sequence[bytes]
    clock: Clock
    seconds: float
    session: aiohttp.ClientSession

    def __repr__(self) -> str:
        return "HttpsGateway()"

    async def post(self, message_id: str, body: bytes) -> None:
        """Hand a wake-up over; what is in the answer does not matter, and is not read."""
        headers = signed_headers(self.secrets, message_id, self.clock(), body) | {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self.seconds),
                # A redirect could lead elsewhere.
                self.session.post(self.url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                _check(response.status, response.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError too
            raise GatewayAwayError(f"it cannot be reached: {type(error).__name__}") from error


@asynccontextmanager
async def https_gateway(
    url: str, secrets: Sequence[bytes], tls: ssl.SSLContext, clock: Clock, *, seconds: float
) -> AsyncIterator[HttpsGateway]:
    """Open connections to a gateway, for as long as the context lasts."""
    connector = aiohttp.TCPConnector(ssl=tls, limit=MOST_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield HttpsGateway(url, secrets, clock, seconds, session)


def _check(status: int, retry_after: str) -> None:
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    why = f"it answers with status {status}"
    if status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # It may be a date too; then the usual pause serves.
        wait = int(retry_after) if _SECONDS.fullmatch(retry_after) else 0
        raise GatewayAwayError(why, min(wait, MOST_RETRY_AFTER_SECONDS))
    raise GatewayRefusedError(why)
