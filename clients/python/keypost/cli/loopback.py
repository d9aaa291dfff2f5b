"""Listens for the browser that comes back from an issuer, on loopback (RFC 8252, section 7.3)."""

from __future__ import annotations

import asyncio
import hmac
import html
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
LARGEST_HEAD = 16 * 1024
SECONDS = 10.0
"""How long one request may take: whoever dawdles keeps nobody else from coming."""
_PAGE = "<!doctype html><meta charset=utf-8><title>Keypost</title><p>{}</p>"


class Loopback:
    """What came back.

    Attributes:
        redirect_uri: Where the issuer sends the browser.
        answer: The query of the first request that knows the state.
    """

    def __init__(self, state: str) -> None:
        self.redirect_uri = ""
        self.answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._state = state

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; what is not the issuer's answer changes nothing."""
        try:
            async with asyncio.timeout(SECONDS):
                status, text = self._take(await reader.readuntil(b"\r\n\r\n"))
                writer.write(_response(status, text))
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _take(self, head: bytes) -> tuple[HTTPStatus, str]:
        method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        parts = urlsplit(target)
        if method != "GET" or parts.path != "/":
            return HTTPStatus.NOT_FOUND, "There is nothing here."
        query = dict(parse_qsl(parts.query, max_num_fields=20))
        if not self._knows_state(query.get("state", "")):
            return HTTPStatus.BAD_REQUEST, "This is no answer to the sign-in that Keypost waits for."
        if not self.answer.done():
            self.answer.set_result(query)
        return HTTPStatus.OK, "Keypost has your answer. You can close this page."

    def _knows_state(self, state: str) -> bool:
        """Whether a request comes from the sign-in that was begun here: any page may send a browser to this port."""
        return hmac.compare_digest(state.encode(), self._state.encode())


def _response(status: HTTPStatus, text: str) -> bytes:
    body = _PAGE.format(html.escape(text)).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Referrer-Policy: no-referrer",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(head).encode() + body


@asynccontextmanager
async def listening(state: str) -> AsyncIterator[Loopback]:
    """Listen on a free port while the block runs.

    Args:
        state: What only the issuer and the browser that was sent there know.
    """
    loopback = Loopback(state)
    server = await asyncio.start_server(loopback.serve, HOST, 0, limit=LARGEST_HEAD)
    loopback.redirect_uri = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
    try:
        yield loopback
    finally:
        server.close()
        await server.wait_closed()
