"""The network between two parts, as a TCP proxy that can be cut, stalled, muted, garbled and closed.

It runs on the event loop of the test, reads no byte of what passes (all but Valkey's is TLS), and notes when something
was answered: that is how a run knows that a mended part is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

CHUNK = 64 * 1024
CONNECT_SECONDS = 5.0
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Backend:
    """One end of a link.

    Attributes:
        name: The part that listens there.
        port: Its port on the loopback interface.
    """

    name: str
    port: int


@dataclass(eq=False)
class _Connection:
    """One connection through the proxy: what came from the caller, what goes to the backend."""

    backend: str
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]

    def reset(self) -> None:
        """End it as a machine that lost power does once it is asked again: by RST, without what is under way."""
        for writer in self.writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@dataclass
class _Gate:
    """Whether bytes pass in one direction."""

    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()


class Link:
    """One way from callers to a part, or to one of several that serve the same.

    Args:
        name: Such as ``alice-1>delivery``.
        backends: Where connections go: to the first that accepts them.
        port: Where it listens; 0: any free port.
        on_change: Called when a backend has answered something, and when the bytes before a cut have passed.
    """

    def __init__(
        self, name: str, backends: Sequence[Backend], port: int = 0, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.backends = list(backends)
        self.port = port
        self.answered: dict[str, float] = {}
        self._on_change = on_change
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._up, self._down = _Gate(), _Gate()
        self._refusing = False
        self._fuse: int | None = None
        self._garbling = False
        self._avoided: set[str] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def will_be_cut(self) -> bool:
        """Whether ``cut_after`` has been called and the bytes have not passed yet."""
        return self._fuse is not None

    @property
    def target(self) -> str:
        """Where to call: ``host:port``."""
        return f"127.0.0.1:{self.port}"

    def answered_since(self, begin: float, backend: str | None = None) -> bool:
        """Return whether a backend (or any of them) has answered since a time of ``time.monotonic``."""
        times = self.answered.values() if backend is None else [self.answered.get(backend, 0.0)]
        return any(answered > begin for answered in times)

    def cut(self) -> None:
        """End all connections at once, with what is under way."""
        for connection in list(self._connections):
            connection.reset()

    def cut_after(self, size: int) -> None:
        """End all connections once so many more bytes have passed: in the middle of something."""
        self._fuse = size

    def garble(self) -> None:
        """Change a bit of what is answered next, as a broken middlebox does: TLS notices, TCP does not."""
        self._garbling = True

    def stall(self) -> None:
        """Let nothing pass, in either direction; connections stand, and new ones are taken."""
        self._up.open.clear()
        self._down.open.clear()

    def freeze(self) -> None:
        """Let nothing pass ever again on the connections that there are: a machine is gone. New ones are well."""
        self.stall()
        self._up, self._down = _Gate(), _Gate()

    def mute(self) -> None:
        """Let no answer pass; what is asked arrives."""
        self._down.open.clear()

    def refuse(self) -> None:
        """End all connections, and every new one as soon as it is made."""
        self._refusing = True
        self.cut()

    def mend(self) -> None:
        """Let everything pass again; what was held back goes first."""
        self._refusing = False
        self._fuse = None
        self._garbling = False
        self._up.open.set()
        self._down.open.set()

    def avoid(self, backend: str) -> None:
        """Take a backend out, as a load balancer does whose health check fails: its connections end."""
        self._avoided.add(backend)
        for connection in list(self._connections):
            if connection.backend == backend:
                connection.reset()

    def prefer_again(self, backend: str) -> None:
        """Take a backend back; if it is the first, connections that went elsewhere end and come back."""
        self._avoided.discard(backend)
        if self.backends[0].name == backend:
            for connection in list(self._connections):
                if connection.backend != backend:
                    connection.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        # Cancelled when the link ends: asyncio would report it as an error of the server's.
        with contextlib.suppress(asyncio.CancelledError):
            if not self._refusing and (found := await self._connect()) is not None:
                await self._serve(reader, writer, *found)
            else:
                _reset(writer)

    async def _connect(self) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter] | None:
        for backend in self.backends:
            if backend.name in self._avoided:
                continue
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    return backend.name, *await asyncio.open_connection("127.0.0.1", backend.port)
        return None

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        backend: str,
        from_backend: asyncio.StreamReader,
        to_backend: asyncio.StreamWriter,
    ) -> None:
        connection = _Connection(backend, (writer, to_backend))
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, reader, to_backend, self._up)),
            asyncio.create_task(self._pump(connection, from_backend, writer, self._down)),
        ]
        try:
            # Either end's last word ends the other one too, after it has passed.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._connections.discard(connection)
            for end in connection.writers:
                end.close()

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: _Gate
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await gate.open.wait()
                passes = self._burn(data)
                writer.write(self._garble(passes) if gate is self._down else passes)
                if gate is self._down:
                    self.answered[connection.backend] = time.monotonic()
                    self._on_change()
                await writer.drain()

    def _burn(self, data: bytes) -> bytes:
        """Return what of the bytes still passes; the rest is lost with the connections, as is what follows.

        Nothing may pass after a gap: no network delivers that, and TLS takes it for an attack.
        """
        if self._fuse is None:
            return data
        passes, burns = data[: self._fuse], self._fuse > 0
        self._fuse = max(0, self._fuse - len(data))
        if burns and self._fuse == 0:
            asyncio.get_running_loop().call_soon(self._cut_amid)
        return passes

    def _garble(self, data: bytes) -> bytes:
        if not self._garbling or not data:
            return data
        self._garbling = False
        garbled = bytearray(data)
        garbled[-1] ^= 1  # in the middle may stand the length of a record: then TLS waits for what never comes
        return bytes(garbled)

    def _cut_amid(self) -> None:
        self._fuse = None
        self.cut()
        self._on_change()
