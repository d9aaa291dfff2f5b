"""JSON from an issuer: over TLS alone, within bounds of time and size, and from nowhere else than was asked."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from keypost_services.runtime.errors import SourceAwayError
from keypost_services.runtime.urls import check_https

if TYPE_CHECKING:
    import ssl
    from contextlib import AbstractAsyncContextManager

MOST_BYTES = 128 * 1024
# Compressed, a few bytes may become very many.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


async def fetch_json(url: str, tls: ssl.SSLContext) -> Any:
    """Return the JSON at a URL; the caller bounds the time.

    Redirects, cookies and proxies are not for this: each could lead elsewhere.

    Args:
        url: Where, beginning with ``https://``.
        tls: Which certificates are believed.

    Raises:
        SourceAwayError: It cannot be had, or is too large, or no JSON.
    """
    try:
        connector = aiohttp.TCPConnector(ssl=tls, force_close=True)
        jar = aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False) as session,
            _get(session, check_https(url)) as response,
        ):
            _check_status(response.status)
            return _parse(await _read(response.content))
    except (aiohttp.ClientError, OSError) as error:
        raise SourceAwayError(f"the issuer cannot be asked: {type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise SourceAwayError("the issuer answers with what is no JSON, or names a URL that is none") from error


def _get(session: aiohttp.ClientSession, url: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    return session.get(url, headers=_HEADERS, allow_redirects=False)


def _check_status(status: int) -> None:
    if status != HTTPStatus.OK:
        raise SourceAwayError(f"the issuer answers with status {status}")


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        _check_size(body)
    return bytes(body)


def _check_size(body: bytearray) -> None:
    if len(body) > MOST_BYTES:
        raise SourceAwayError(f"the issuer answers with more than {MOST_BYTES} bytes")


def _parse(body: bytes) -> Any:
    return json.loads(body)
