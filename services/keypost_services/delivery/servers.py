"""The servers behind the mailboxes: which one holds a mailbox, and how commands get to it.

The port has two adapters: one server (here), and a cluster (``cluster``). Everything of a mailbox is on one server,
since all its keys have one hash tag.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from keypost_services.delivery.functions import is_missing
from keypost_services.delivery.mailboxes import MailboxesOutOfMemoryError, MailboxesUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from redis.asyncio import Redis

    from keypost_services.delivery.functions import Call, FunctionLibrary

MOST_AT_ONCE = 64


class NotReplicatedError(Exception):
    """What was written is not on the disks of the server and of a replica yet."""


class Server:
    """One server, with a pool of connections.

    Args:
        name: What to call it: its address, or nothing if there is just one.
        client: A client of it, with bounded timeouts, that returns bytes.
        functions: What it must have; put there when it turns out that they are missing.
    """

    def __init__(self, name: str, client: Redis, functions: FunctionLibrary) -> None:
        self.name = name
        self.client = client
        self._functions = functions
        # The client's pool refuses when it is used up; here one waits.
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def load_functions(self) -> None:
        """Put the functions in place; to do it again is harmless. Raises what redis-py raises."""
        await self._functions.load(self.client)

    async def ask(self, *command: str) -> Any:
        """Return the reply to a command about the server itself. Raises what redis-py raises."""
        return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def run(self, calls: Sequence[Call], replica_timeout: int | None, *, asking: bool = False) -> list[Any]:
        """Run commands on one connection, in order; returns the reply or the error of each.

        Args:
            calls: The commands.
            replica_timeout: How long to wait until what they wrote is on the disks of this server and of a replica,
                milliseconds; None not to wait at all. What is not there in time has failed.
            asking: The slot is being moved here; the server serves it to who says so.
        """
        commands: list[tuple[Any, ...]] = []
        for call in calls:
            commands += [("ASKING",), call.command] if asking else [call.command]
        if replica_timeout is not None:
            commands += _waits(replica_timeout)
        try:
            async with self._turns:
                replies = await self._answers(commands)
        except (RedisError, OSError) as error:
            return [error for _ in calls]
        lost = None
        if replica_timeout is not None:
            *replies, _, on_disks = replies
            lost = _not_replicated(on_disks)
        answers = replies[1::2] if asking else replies
        return [answer if lost is None or isinstance(answer, Exception) else lost for answer in answers]

    async def _answers(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = await self._pipelined(commands)
        if any(map(is_missing, replies)):
            await self.load_functions()
            replies = await self._pipelined(commands)
        return replies

    async def _pipelined(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        async with self.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies


class Servers(Protocol):
    """All servers; to be entered once."""

    async def __aenter__(self) -> Self:
        """Find the servers; raises :class:`MailboxesUnavailableError`."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""

    @property
    def serving(self) -> Sequence[Server]:
        """Those that hold mailboxes now."""

    @property
    def spare(self) -> Sequence[Server]:
        """Those that would take a failed one's place."""

    def server_of(self, key: str) -> Server | None:
        """Return the one that has a key, as far as is known; None if none has."""

    async def run(
        self, calls: Sequence[Call], replica_timeout: int | None = None
    ) -> Sequence[Any | MailboxesUnavailableError]:
        """Run commands where their mailboxes are; returns for each its reply, or why there is none.

        Those of one mailbox run in their order. What did not get through is repeated for a moment, so a command may
        have run although an error stands in its place.
        """

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have a callback called whenever it turns out that another server has something now."""

    def doubt(self) -> None:
        """Have it found out anew soon: there is reason to think that it has changed."""

    def moved(self, error: Exception) -> None:
        """Take note of what an error says of where a mailbox is now."""


class OneServer:
    """The adapter of :class:`Servers` for a single server.

    Args:
        client: A client of it, with bounded timeouts, that returns bytes.
        functions: What it must have.
    """

    def __init__(self, client: Redis, functions: FunctionLibrary) -> None:
        self._server = Server("", client, functions)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.client.aclose()

    @property
    def serving(self) -> Sequence[Server]:
        """The server."""
        return [self._server]

    @property
    def spare(self) -> Sequence[Server]:
        """None that is known of."""
        return []

    def server_of(self, _key: str) -> Server | None:
        """Return the server."""
        return self._server

    async def run(
        self, calls: Sequence[Call], replica_timeout: int | None = None
    ) -> Sequence[Any | MailboxesUnavailableError]:
        """Run commands; once more on a new connection if the pooled one had died."""
        replies = await self._server.run(calls, replica_timeout)
        if any(isinstance(reply, RedisConnectionError) for reply in replies):
            replies = await self._server.run(calls, replica_timeout)
        return [reply_or_unavailable(reply) for reply in replies]

    def on_change(self, _callback: Callable[[], None]) -> None:
        """Nothing changes."""

    def doubt(self) -> None:
        """Nothing changes."""

    def moved(self, _error: Exception) -> None:
        """Nothing moves."""


def reply_or_unavailable(reply: Any) -> Any:
    """Return a reply, or the port's error for the error that stands in its place."""
    if isinstance(reply, OutOfMemoryError):
        return MailboxesOutOfMemoryError("the mailbox server is out of memory")
    if isinstance(reply, NotReplicatedError):
        return MailboxesUnavailableError("no replica has the message on its disk yet")
    if isinstance(reply, Exception):
        return MailboxesUnavailableError(f"the mailbox server: {type(reply).__name__}: {reply}")
    return reply


def _waits(milliseconds: int) -> list[tuple[Any, ...]]:
    """Return what waits until what was written is on the disks of the server and of a replica.

    WAITAOF alone takes a second: it asks the replica at once, before that has written to its disk, and is told again in
    a second only. WAIT lets it ask a moment later.
    """
    half = max(1, milliseconds // 2)
    return [("WAIT", 1, half), ("WAITAOF", 1, 1, half)]


def _not_replicated(reply: Any) -> Exception | None:
    """Return what is wrong with the answer to WAITAOF, if anything is."""
    if isinstance(reply, Exception):
        return reply
    on_this_disk, on_replicas_disks = reply
    return None if on_this_disk and on_replicas_disks else NotReplicatedError()
