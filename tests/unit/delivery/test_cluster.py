"""How calls find their way in a cluster, with servers that answer what the test says."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, Self

import pytest
from redis.crc import key_slot
from redis.exceptions import AskError, BusyLoadingError, MovedError, OutOfMemoryError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from keypost_services.delivery.cluster import ClusterServers
from keypost_services.delivery.cluster_url import read_cluster_url
from keypost_services.delivery.functions import Call, FunctionLibrary
from keypost_services.delivery.mailboxes import MailboxesOutOfMemoryError, MailboxesUnavailableError

URL = read_cluster_url("redis+cluster://a:1,b:2")
ONE = Call("{one}", ("GET", "{one}"))
SLOT = key_slot(b"{one}")


class Nodes:
    """Clients of nodes; each answers a pipeline with what is next in its script, and with OK after that."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Any]] = defaultdict(list)
        self.sent: list[tuple[str, list[tuple[Any, ...]]]] = []
        self.slots: list[Any] = [[0, 16383, [b"a", 1, b"id"]]]

    def connect(self, url: str) -> Any:
        return _Client(self, url.removeprefix("redis://"))


class _Client:
    def __init__(self, nodes: Nodes, name: str) -> None:
        self._nodes, self._name = nodes, name
        self._commands: list[tuple[Any, ...]] = []

    async def execute_command(self, *_command: Any) -> Any:
        return self._nodes.slots

    def pipeline(self, **_options: Any) -> Any:
        return _Pipeline(self._nodes, self._name)

    async def aclose(self) -> None:
        pass


class _Pipeline:
    def __init__(self, nodes: Nodes, name: str) -> None:
        self._nodes, self._name = nodes, name
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    async def execute(self, **_options: Any) -> list[Any]:
        self._nodes.sent.append((self._name, self._commands))
        script = self._nodes.scripts[self._name]
        answer = script.pop(0) if script else b"OK"
        if isinstance(answer, RedisConnectionError):
            raise answer
        return [answer for _ in self._commands]


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def _servers(nodes: Nodes, patience: float = 5.0) -> ClusterServers:
    return ClusterServers(URL, nodes.connect, FunctionLibrary(), patience_seconds=patience)


def _names(nodes: Nodes) -> list[str]:
    return [name for name, _ in nodes.sent]


async def test_a_call_that_is_sent_on_follows_and_the_next_goes_there_at_once(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [MovedError(f"{SLOT} b:2")]
    async with _servers(nodes) as servers:
        told: list[int] = []
        servers.on_change(lambda: told.append(1))
        a, b = [b"a", 1, b"id"], [b"b", 2, b"id"]
        nodes.slots = [[0, SLOT - 1, a], [SLOT, SLOT, b], [SLOT + 1, 16383, a]]
        assert await servers.run([ONE]) == [b"OK"]
        assert await servers.run([ONE]) == [b"OK"]
    assert _names(nodes) == ["a:1", "b:2", "b:2"]
    assert told == [1]


async def test_a_slot_that_is_being_moved_is_asked_for_where_it_goes(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [AskError(f"{SLOT} b:2")]
    async with _servers(nodes) as servers:
        assert await servers.run([ONE]) == [b"OK"]
        assert await servers.run([ONE]) == [b"OK"]
    assert nodes.sent[1] == ("b:2", [("ASKING",), ("GET", "{one}")])
    assert _names(nodes) == ["a:1", "b:2", "a:1"]


@pytest.mark.parametrize(
    "error",
    [
        TryAgainError("multiple keys"),
        BusyLoadingError("loading"),
        RedisConnectionError("gone"),
        ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
    ],
)
async def test_what_may_pass_is_tried_again(nodes: Nodes, error: Exception) -> None:
    nodes.scripts["a:1"] = [error, error]
    async with _servers(nodes) as servers:
        assert await servers.run([ONE]) == [b"OK"]
    assert _names(nodes) == ["a:1"] * 3


async def test_what_does_not_pass_is_unavailable_after_a_while(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [TryAgainError("multiple keys")] * 1000
    async with _servers(nodes, patience=0.3) as servers:
        (reply,) = await servers.run([ONE])
    assert isinstance(reply, MailboxesUnavailableError)
    assert 2 < len(nodes.sent) < 20


async def test_nodes_that_send_a_call_round_and_round_are_not_followed_for_ever(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [MovedError(f"{SLOT} b:2")] * 1000
    nodes.scripts["b:2"] = [MovedError(f"{SLOT} a:1")] * 1000
    async with _servers(nodes, patience=0.3) as servers:
        (reply,) = await servers.run([ONE])
    assert isinstance(reply, MailboxesUnavailableError)
    assert len(nodes.sent) < 20


async def test_what_will_not_pass_is_said_at_once(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [OutOfMemoryError("command not allowed"), ResponseError("WRONGTYPE")]
    async with _servers(nodes) as servers:
        assert isinstance((await servers.run([ONE]))[0], MailboxesOutOfMemoryError)
        assert isinstance((await servers.run([ONE]))[0], MailboxesUnavailableError)
    assert len(nodes.sent) == 2


async def test_a_slot_that_nobody_has_is_unavailable(nodes: Nodes) -> None:
    nodes.slots = [[SLOT + 1, 16383, [b"a", 1, b"id"]]]
    async with _servers(nodes, patience=0.1) as servers:
        assert servers.server_of(ONE.key) is None
        (reply,) = await servers.run([ONE])
    assert isinstance(reply, MailboxesUnavailableError)
    assert nodes.sent == []


async def test_many_calls_do_not_all_try_a_node_that_is_down(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [RedisConnectionError("refused")] * 10_000
    async with _servers(nodes, patience=0.2) as servers:
        await servers.run([ONE])
        nodes.sent.clear()
        replies = await asyncio.gather(*(servers.run([ONE]) for _ in range(300)))
    assert all(isinstance(reply, MailboxesUnavailableError) for (reply,) in replies)
    assert len(nodes.sent) < 30


async def test_writes_and_the_wait_for_them_go_to_each_node_over_one_connection(nodes: Nodes) -> None:
    nodes.slots = [[0, 8191, [b"a", 1, b"id"]], [8192, 16383, [b"b", 2, b"id"]]]
    calls = [Call(key, ("SET", key)) for key in ("{one}", "{two}", "{three}", "{one}x")]
    nodes.scripts["a:1"] = nodes.scripts["b:2"] = [[1, 1], [1, 1]]
    async with _servers(nodes) as servers:
        assert await servers.run(calls, 1_000) == [[1, 1]] * 4
    by_node = {name: [command[0] for command in commands] for name, commands in nodes.sent}
    assert len(nodes.sent) == len(by_node) == 2
    assert all(commands[-2:] == ["WAIT", "WAITAOF"] for commands in by_node.values())


async def test_what_is_not_on_a_replica_s_disk_has_failed(nodes: Nodes) -> None:
    nodes.scripts["a:1"] = [[1, 0]]
    async with _servers(nodes) as servers:
        (reply,) = await servers.run([ONE], 1_000)
    assert isinstance(reply, MailboxesUnavailableError)
    assert "replica" in str(reply)
