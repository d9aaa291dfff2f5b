"""A Valkey Cluster of our own on the loopback address: three masters, a replica each.

The nodes of a cluster find each other by address and port, and the servers that come in wheels are built without TLS:
a password is all that guards them. So it is for tests and trials on one machine; ``valkey`` has the stack's server.
"""

from __future__ import annotations

import json
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import redis

from keypost_services.embedded.layout import LOOPBACK
from keypost_services.embedded.ports import bound
from keypost_services.embedded.processes import POLL_SECONDS, Process, StackFailedError
from keypost_services.embedded.valkey import answers, ask, find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SLOTS = 16_384
NODE_TIMEOUT_MS = 2_000
"""After so long without a word a node counts as failed, and its replica takes over."""
FORM_SECONDS = 90.0
ANSWER_SECONDS = 5.0
_SETTINGS = {
    "bind": LOOPBACK,
    "daemonize": "no",
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    # A shard that is away takes nothing from the others, and its replica takes over whatever it has.
    "cluster-require-full-coverage": "no",
    "cluster-replica-validity-factor": "0",
    # What is a master stays one although its slots were taken, and replicas stay where they were put.
    "cluster-allow-replica-migration": "no",
    "repl-diskless-sync-delay": "0",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "save": '""',
}


class ClusterNode:
    """One server of the cluster; it may end and be started again with the same ports and folder.

    Args:
        folder: Where its data, its configuration and its log go.
        ports: Its port, and that on which the nodes talk to each other.
        password: What it asks of clients and of the other nodes.
        settings: Settings of ``valkey.conf`` beside those of every node.
    """

    def __init__(self, folder: Path, ports: tuple[int, int], password: str, settings: dict[str, str]) -> None:
        self.folder = folder
        self.port, self.bus_port = ports
        self.process = self._process()
        self._password = password
        self._settings = settings

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"valkey-{self.port}"

    @property
    def address(self) -> str:
        """Host and port, as the cluster names it."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """The URL of this node alone, with the password: not for logs."""
        return f"redis://:{self._password}@{self.address}"

    def start(self) -> Process:
        """Start the server, on the data that it has.

        Raises:
            StackFailedError: there is no server binary.
        """
        binary = find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = self._process(str(binary), str(self._write_configuration()))
        self.process.start()
        return self.process

    def _process(self, *command: str) -> Process:
        return Process(self.name, command, self.folder / "valkey.log")

    def _write_configuration(self) -> Path:
        """Write what the server must be told; in a file, since command lines are for all to see."""
        path = self.folder / "valkey.conf"
        path.touch(mode=0o600)
        settings = {
            **_SETTINGS,
            "port": str(self.port),
            "cluster-port": str(self.bus_port),
            "requirepass": self._password,
            "primaryauth": self._password,
            "dir": f'"{self.folder.resolve().as_posix()}"',
            **self._settings,
        }
        path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return path

    def ask(self, *command: str | int) -> Any:
        """Return the answer to a command; nothing is tried twice. Raises what redis-py raises."""
        return ask(self.url, *command, seconds=ANSWER_SECONDS)

    def answers(self) -> bool:
        """Return whether the server takes commands."""
        return answers(self.url, seconds=ANSWER_SECONDS)


class ValkeyCluster:
    """A cluster with a password of its own.

    Args:
        folder: Where everything goes, a folder for each node.
        masters: How many nodes have slots.
        replicas: How many replicas each of them has.
        settings: Settings of ``valkey.conf`` for every node, such as ``{"appendfsync": "everysec"}``.
    """

    def __init__(
        self, folder: Path, *, masters: int = 3, replicas: int = 1, settings: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._masters = masters
        self.password = secrets.token_urlsafe(32)
        self._settings = {"cluster-node-timeout": str(NODE_TIMEOUT_MS), **(settings or {})}
        self.nodes: list[ClusterNode] = []
        self.add_nodes(masters * (1 + replicas))

    @property
    def url(self) -> str:
        """The URL with the password: not for logs."""
        addresses = ",".join(node.address for node in self.nodes)
        return f"redis+cluster://:{self.password}@{addresses}"

    def add_nodes(self, count: int) -> Sequence[ClusterNode]:
        """Return more nodes; they are neither started nor known to the cluster."""
        first = len(self.nodes)
        self.nodes += [
            ClusterNode(self.folder / str(first + number), ports, self.password, self._settings)
            for number, ports in enumerate(self._ports(first, count))
        ]
        return self.nodes[first:]

    def _ports(self, first: int, count: int) -> Sequence[tuple[int, int]]:
        """Return the ports of some nodes: the same ones at the next start, since the others know them by these."""
        path = self.folder / "ports.json"
        remembered = json.loads(path.read_text()) if path.exists() else []
        if len(remembered) < first + count:
            remembered = [*remembered[:first], *_free_ports(count)]
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(remembered))
        return [(port, bus_port) for port, bus_port in remembered[first : first + count]]

    def start(self) -> Sequence[Process]:
        """Start every node; ``wait`` for them before the cluster is used.

        Raises:
            StackFailedError: there is no server binary.
        """
        return [node.start() for node in self.nodes]

    def wait(self, seconds: float = FORM_SECONDS) -> None:
        """Return when the cluster serves; nodes that do not know each other yet are brought together.

        Raises:
            StackFailedError: a node ended, or they do not come together in time.
        """
        for node in self.nodes:
            node.process.wait_until(node.answers, seconds)
        if info_of(self.nodes[0])["cluster_known_nodes"] == "1":
            self._form(seconds)
        self.wait_until(lambda: all(is_settled(node, len(self.nodes)) for node in self.nodes), seconds)
        self.wait_until(lambda: all(len(_serving(node)) == len(self.nodes) for node in self.nodes), seconds)

    def _form(self, seconds: float) -> None:
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        bounds = [SLOTS * number // len(masters) for number in range(len(masters) + 1)]
        for number, master in enumerate(masters):
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            master.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for node in self.nodes:
            self.introduce(node)
        ids = [master.ask("CLUSTER", "MYID") for master in masters]
        for number, replica in enumerate(replicas):
            master_id = ids[number % len(masters)]
            self.wait_until(partial(_knows, replica, master_id), seconds)
            replica.ask("CLUSTER", "REPLICATE", master_id)

    def introduce(self, node: ClusterNode) -> None:
        """Make a node known to all others."""
        for other in self.nodes:
            node.ask("CLUSTER", "MEET", LOOPBACK, other.port, other.bus_port)

    def wait_until(self, ready: Callable[[], bool], seconds: float = FORM_SECONDS) -> None:
        """Return when ``ready`` says so.

        Raises:
            StackFailedError: it does not in time.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise StackFailedError(f"the Valkey Cluster in {self.folder} is not ready after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def stop(self, seconds: float = 10.0) -> None:
        """End every node; those that do not end in time are killed."""
        for node in self.nodes:
            node.process.ask_to_stop()
        for node in self.nodes:
            node.process.wait_stopped(seconds)


def info_of(node: ClusterNode) -> dict[str, str]:
    """Return what a node says of the cluster; raises what redis-py raises."""
    text: str = node.ask("CLUSTER", "INFO")
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)


def is_settled(node: ClusterNode, known: int) -> bool:
    """Return whether a node serves in a cluster of so many nodes, and follows its master if it is a replica."""
    try:
        info, role = info_of(node), node.ask("ROLE")
    except redis.RedisError:
        return False
    in_step = role[0] == "master" or role[3] == "connected"
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(known) and in_step


def _serving(node: ClusterNode) -> set[int]:
    """Return the ports of the masters and replicas that a node would name to a client."""
    return {part[1] for _, _, *parts in node.ask("CLUSTER", "SLOTS") for part in parts}


def _knows(node: ClusterNode, node_id: str) -> bool:
    lines: str = node.ask("CLUSTER", "NODES")
    return any(line.startswith(node_id) and "handshake" not in line for line in lines.splitlines())


def _free_ports(count: int) -> list[tuple[int, int]]:
    """Return pairs of ports that were free a moment ago."""
    with bound([0] * (2 * count)) as ports:
        return list(zip(ports[:count], ports[count:], strict=True))
