"""The mailboxes' servers as a cluster: slots are followed wherever they go.

redis-py's own cluster client is not used (docs/adr/0024): what was written must be waited for on the connection that
wrote it, and a mailbox's commands must not overtake each other when a slot moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, Self

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keypost_services.delivery.mailboxes import MailboxesUnavailableError
from keypost_services.delivery.servers import Server, reply_or_unavailable
from keypost_services.delivery.slots import Node, SlotMap, read_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from redis.asyncio import Redis

    from keypost_services.delivery.cluster_url import ClusterUrl
    from keypost_services.delivery.functions import Call, FunctionLibrary

PATIENCE_SECONDS = 2.0
"""So long a call is repeated: a slot is moved within that, and whoever sent may wait no longer."""
FIRST_PAUSE_SECONDS = 0.04
LONGEST_PAUSE_SECONDS = 0.8
DOWN_SECONDS = 0.1
"""So often a node is tried that does not answer; who else asks for it meanwhile need not wait to be told so."""
MOST_REDIRECTIONS = 5
"""So often a call goes at once to where it was sent on; nodes that send it round and round give cause to wait."""
LOOK_SECONDS = 5.0
"""So often it is found out who has what although nothing gave reason to."""
SOONEST_SECONDS = 0.1
"""However much is in doubt, it is found out no more often."""
ASK_SECONDS = 0.5
"""How long one node may take to say who has what; then another one is asked."""
_PASSING = (
    MovedError,
    AskError,
    TryAgainError,
    ClusterDownError,
    ReadOnlyError,
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
)
"""What says that a call belongs elsewhere, or that it may go through soon. A server that loads its file is among it."""
_ROLE_CHANGED = ("UNBLOCKED", "WAITAOF cannot be used")
"""How the answers to WAITAOF begin at a server that has become a replica."""


class ClusterUncoveredError(Exception):
    """No node has the slot."""


class ClusterServers:
    """The adapter of :class:`~keypost_services.delivery.servers.Servers` for a cluster. To be entered once.

    Args:
        url: Some of its nodes.
        connect: Returns a client of the node at a URL, with bounded timeouts, that returns bytes.
        functions: What every node must have.
        patience_seconds: How long a call is repeated.
        look_seconds: How often it is found out who has what without a reason.
    """

    def __init__(
        self,
        url: ClusterUrl,
        connect: Callable[[str], Redis],
        functions: FunctionLibrary,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._url = url
        self._connect = connect
        self._functions = functions
        self._patience_seconds = patience_seconds
        self._look_seconds = look_seconds
        self._map = SlotMap()
        self._servers: dict[Node, Server] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._doubted = asyncio.Event()
        self._down: dict[Server, tuple[float, Exception]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._find_out()
        except MailboxesUnavailableError:
            await self._close_all()
            raise
        self._task = asyncio.create_task(self._keep_finding_out(), name="cluster")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._close_all()

    async def _close_all(self) -> None:
        servers = list(self._servers.values())
        self._servers.clear()
        await asyncio.gather(*(server.client.aclose() for server in servers), return_exceptions=True)

    @property
    def serving(self) -> Sequence[Server]:
        """The masters."""
        return [self._server(node) for node in self._map.masters]

    @property
    def spare(self) -> Sequence[Server]:
        """The replicas."""
        return [self._server(node) for node in self._map.replicas]

    def server_of(self, key: str) -> Server | None:
        """Return the master that has a key, as far as is known."""
        node = self._map.node_of(key_slot(key.encode()))
        return None if node is None else self._server(node)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have a callback called whenever slots are found to be elsewhere."""
        self._callbacks.append(callback)

    def doubt(self) -> None:
        """Have the slots found out anew soon."""
        self._doubted.set()

    def moved(self, error: Exception) -> None:
        """Take note of where a slot is now."""
        self.doubt()
        if isinstance(error, MovedError) and error.host:  # a node may not know the other one's name
            node = (error.host, error.port)
            if self._map.node_of(error.slot_id) != node:
                self._map.move(error.slot_id, node)
                self._tell()

    async def run(
        self, calls: Sequence[Call], replica_timeout: int | None = None
    ) -> Sequence[Any | MailboxesUnavailableError]:
        """Run commands where their mailboxes are, and again where they went, for a moment."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience_seconds, FIRST_PAUSE_SECONDS
        replies: list[Any] = [ClusterUncoveredError("no node has the slot")] * len(calls)
        pending, redirections = list(range(len(calls))), 0
        while True:
            await self._run_once(calls, pending, replies, replica_timeout)
            pending = [number for number in pending if _may_pass(replies[number])]
            if not pending or loop.time() + pause > deadline:
                return [reply_or_unavailable(reply) for reply in replies]
            redirections += 1
            if redirections <= MOST_REDIRECTIONS and all(isinstance(replies[number], AskError) for number in pending):
                continue
            self.doubt()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_once(
        self, calls: Sequence[Call], pending: Sequence[int], replies: list[Any], replica_timeout: int | None
    ) -> None:
        """Try the pending calls once, in a group for each server, and put down what comes of each."""
        groups: dict[tuple[Server, bool], list[int]] = {}
        for number in pending:
            server, asking = self._where(calls[number], replies[number])
            if server is not None:
                groups.setdefault((server, asking), []).append(number)
        answers = await asyncio.gather(
            *(
                self._run_at(server, [calls[number] for number in numbers], replica_timeout, asking=asking)
                for (server, asking), numbers in groups.items()
            )
        )
        for numbers, group_replies in zip(groups.values(), answers, strict=True):
            for number, reply in zip(numbers, group_replies, strict=True):
                replies[number] = reply
                if _may_pass(reply) and type(reply) is not AskError:
                    self.moved(reply)

    async def _run_at(
        self, server: Server, calls: Sequence[Call], replica_timeout: int | None, *, asking: bool
    ) -> Sequence[Any]:
        """Run commands at a server, unless it was found not to answer a moment ago."""
        loop = asyncio.get_running_loop()
        until, why = self._down.get(server, (0.0, None))
        if why is not None:
            if loop.time() < until:
                return [why] * len(calls)
            self._down[server] = loop.time() + DOWN_SECONDS, why  # this one tries
        replies = await server.run(calls, replica_timeout, asking=asking)
        failure = next((reply for reply in replies if isinstance(reply, RedisConnectionError)), None)
        if failure is not None:
            self._down[server] = loop.time() + DOWN_SECONDS, failure
        else:
            self._down.pop(server, None)
        return replies

    def _where(self, call: Call, last: Any) -> tuple[Server | None, bool]:
        if type(last) is AskError:  # its subclass says that the slot has moved for good
            return self._server((last.host, last.port)), True
        return self.server_of(call.key), False

    async def _keep_finding_out(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._doubted.wait()
            self._doubted.clear()
            # Whatever it was: the next time may do.
            with contextlib.suppress(Exception):
                await self._find_out()
            await asyncio.sleep(SOONEST_SECONDS)

    async def _find_out(self) -> None:
        """Ask one node after the other who has what.

        Raises:
            MailboxesUnavailableError: none says.
        """
        nodes = list({*self._map.masters, *self._map.replicas, *self._url.nodes})
        random.shuffle(nodes)
        why: Exception = ClusterUncoveredError("no node has any slot")
        for node in nodes:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    reply = await self._server(node).ask("CLUSTER", "SLOTS")
            except (RedisError, OSError) as error:
                why = error
                continue
            if reply:
                await self._take_over(read_slots(reply, node))
                return
        raise MailboxesUnavailableError(f"no node of the cluster says who has the mailboxes: {why}") from why

    async def _take_over(self, found: SlotMap) -> None:
        before, self._map = self._map, found
        if not found.agrees(before):
            self._tell()
        await self._close_those_gone()

    async def _close_those_gone(self) -> None:
        kept = {*self._map.masters, *self._map.replicas, *self._url.nodes}
        gone = [self._servers.pop(node) for node in list(self._servers) if node not in kept]
        for server in gone:
            self._down.pop(server, None)
        await asyncio.gather(*(server.client.aclose() for server in gone), return_exceptions=True)

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()

    def _server(self, node: Node) -> Server:
        if node not in self._servers:
            host, port = node
            client = self._connect(self._url.node_url(host, port))
            self._servers[node] = Server(f"{host}:{port}", client, self._functions)
        return self._servers[node]


def _may_pass(reply: Any) -> bool:
    """Return whether a reply is an error that another try may not meet."""
    if isinstance(reply, (*_PASSING, ClusterUncoveredError)):
        return True
    return isinstance(reply, RedisError) and str(reply).startswith(_ROLE_CHANGED)
