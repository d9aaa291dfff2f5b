from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from support.faults.proxy import Backend, Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 20
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def echo(name: bytes) -> AsyncIterator[int]:
    """A server that answers every line with its name and the line; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(name + b" " + line)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    async with (
        echo(b"one") as one,
        echo(b"two") as two,
        Link("a>b", [Backend("one", one), Backend("two", two)]) as link,
    ):
        yield link


@contextlib.asynccontextmanager
async def connection(link: Link) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(ends: Ends, line: bytes) -> bytes:
    """Ask; the answer is empty if the connection has ended."""
    reader, writer = ends
    writer.write(line)
    async with asyncio.timeout(LONG):
        try:
            return await reader.readline()
        except ConnectionError:
            return b""


async def test_bytes_pass_and_answers_are_noted(link: Link) -> None:
    begin = time.monotonic()
    async with connection(link) as ends:
        assert not link.answered_since(begin)
        assert await ask(ends, b"hello\n") == b"one hello\n"
    assert link.answered_since(begin)
    assert link.answered_since(begin, "one")
    assert not link.answered_since(begin, "two")


async def test_a_cut_ends_connections_and_the_next_one_works(link: Link) -> None:
    async with connection(link) as ends:
        await ask(ends, b"1\n")
        link.cut()
        assert await ask(ends, b"2\n") == b""
    async with connection(link) as ends:
        assert await ask(ends, b"3\n") == b"one 3\n"


async def test_a_cut_amid_lets_so_many_bytes_pass(link: Link) -> None:
    async with connection(link) as ends:
        await ask(ends, b"1\n")
        link.cut_after(4)
        assert await ask(ends, b"2\n") in (b"", b"on")


async def test_nothing_passes_after_what_a_cut_amid_has_lost(link: Link) -> None:
    """However much waits to pass: TLS would be told of bytes that do not follow on each other."""
    async with connection(link) as ends:
        await ask(ends, b"1\n")
        link.cut_after(4)
        # Both in one turn of the loop, as where more waits than is read at once.
        assert [link._burn(b"12345"), link._burn(b"6")] == [b"1234", b""]
        assert await ask(ends, b"2\n") == b""
        assert not link.will_be_cut


async def test_one_answer_is_garbled_and_what_is_asked_is_not(link: Link) -> None:
    async with connection(link) as ends:
        link.garble()
        reader, writer = ends
        writer.write(b"1\n")
        async with asyncio.timeout(LONG):
            assert await reader.readexactly(6) == b"one 1\x0b"
        assert await ask(ends, b"2\n") == b"one 2\n"
        assert await ask(ends, b"3\n") == b"one 3\n"
        link.garble()
        link.mend()
        assert await ask(ends, b"4\n") == b"one 4\n"


async def test_while_it_is_stalled_nothing_passes_and_afterwards_all_of_it_does(link: Link) -> None:
    async with connection(link) as ends:
        await ask(ends, b"1\n")
        link.stall()
        asking = asyncio.create_task(ask(ends, b"2\n"))
        async with connection(link) as others:  # accepted, and as silent
            other = asyncio.create_task(ask(others, b"3\n"))
            await asyncio.wait([asking, other], timeout=0.2)
            assert not asking.done()
            assert not other.done()
            link.mend()
            assert await asking == b"one 2\n"
            assert await other == b"one 3\n"


async def test_while_it_is_mute_what_is_asked_arrives() -> None:
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        arrived.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Link("a>b", [Backend("b", port)]) as muted, connection(muted) as ends:
            muted.mute()
            asking = asyncio.create_task(ask(ends, b"1\n"))
            async with asyncio.timeout(LONG):
                await arrived.wait()
            assert not muted.answered
            muted.cut()
            muted.mend()
            assert await asking == b""


async def test_while_it_refuses_every_connection_ends(link: Link) -> None:
    async with connection(link) as ends:
        await ask(ends, b"1\n")
        link.refuse()
        assert await ask(ends, b"2\n") == b""
    async with connection(link) as ends:
        assert await ask(ends, b"3\n") == b""
    link.mend()
    async with connection(link) as ends:
        assert await ask(ends, b"4\n") == b"one 4\n"


async def test_a_backend_that_is_away_or_avoided_is_stood_in_for_until_it_is_back(link: Link) -> None:
    async with connection(link) as ends:
        assert await ask(ends, b"1\n") == b"one 1\n"
        link.avoid("one")
        assert await ask(ends, b"2\n") == b""
    async with connection(link) as ends:
        assert await ask(ends, b"3\n") == b"two 3\n"
        link.prefer_again("one")
        assert await ask(ends, b"4\n") == b""
    async with connection(link) as ends:
        assert await ask(ends, b"5\n") == b"one 5\n"
    gone = link.backends[0]
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
        free = server.sockets[0].getsockname()[1]
    link.backends[0] = Backend(gone.name, free)
    async with connection(link) as ends:
        assert await ask(ends, b"6\n") == b"two 6\n"
