"""Where the browser comes back to: the first answer that knows the state counts, and nothing else does anything."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from keypost.cli import loopback as module
from keypost.cli.loopback import Loopback, listening

STATE = "s" * 43


async def send(loopback: Loopback, request: bytes) -> bytes:
    port = urlsplit(loopback.redirect_uri).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


async def test_the_answer_is_taken_once() -> None:
    async with listening(STATE) as loopback:
        first = await send(loopback, get(f"/?code=one&state={STATE}"))
        second = await send(loopback, get(f"/?code=two&state={STATE}"))
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Cache-Control: no-store" in first
    assert second.startswith(b"HTTP/1.1 200")
    assert loopback.answer.result() == {"code": "one", "state": STATE}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/?code=stolen&state=wrong"), b"400"),
        (get("/?code=stolen"), b"400"),
        (get(f"/?code=stolen&state={STATE}x"), b"400"),
        (get(f"/favicon.ico?state={STATE}"), b"404"),
        (get(f"/?code=a&state={STATE}").replace(b"GET", b"POST"), b"404"),
        (b"nonsense\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\n", b""),
        (b"\xff\xfe /\r\n\r\n", b""),
        (get("/" + "a" * 20_000), b""),
        (get("/?" + "&".join(f"a{number}=1" for number in range(50))), b""),
        (b"", b""),
    ],
)
async def test_what_is_no_answer_changes_nothing(request_bytes: bytes, status: bytes) -> None:
    async with listening(STATE) as loopback:
        try:
            answer = await send(loopback, request_bytes)
        except ConnectionError:
            answer = b""
        assert answer[9:12] == status
        assert not loopback.answer.done()
        await send(loopback, get(f"/?error=access_denied&state={STATE}"))
    assert loopback.answer.result() == {"error": "access_denied", "state": STATE}


async def test_nothing_of_a_request_is_shown() -> None:
    async with listening(STATE) as loopback:
        answer = await send(loopback, get("/?code=<script>&state=<script>"))
    assert b"script" not in answer


async def test_who_dawdles_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    async with listening(STATE) as loopback:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(loopback.redirect_uri).port)
        writer.write(b"GET / HTTP/1.1\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_nobody_listens_afterwards_and_only_loopback_before() -> None:
    async with listening(STATE) as loopback:
        uri = urlsplit(loopback.redirect_uri)
        assert uri.hostname == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", uri.port)
