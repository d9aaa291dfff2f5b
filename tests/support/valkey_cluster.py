"""A real Valkey Cluster for tests: started, broken in the ways in which clusters break, stopped.

::

    with running_cluster(tmp_path) as cluster:
        client = mailbox_servers(cluster.url)
        cluster.lose(cluster.master_of("{bob}"))
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

import redis
from redis.crc import key_slot

from keypost_services.embedded.processes import StackFailedError
from keypost_services.embedded.valkey_cluster import ClusterNode, ValkeyCluster, info_of, is_settled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

START_ATTEMPTS = 3
END_SECONDS = 10


class Cluster(ValkeyCluster):
    """A cluster whose nodes may be killed, frozen, lost with their disks, and whose slots may be moved."""

    @property
    def running(self) -> Sequence[ClusterNode]:
        """The nodes whose process has not ended."""
        return [node for node in self.nodes if node.process.is_running()]

    @property
    def masters(self) -> Sequence[ClusterNode]:
        """The nodes that run and say that they serve slots."""
        return [node for node in self.running if node.ask("ROLE")[0] == "master"]

    def master_of(self, key: str, asked: ClusterNode | None = None) -> ClusterNode:
        """Return the node that serves a key, as a node that runs (or the one named) sees it."""
        return self.master_of_slot(key_slot(key.encode()), asked or self.running[0])

    def master_of_slot(self, slot: int, asked: ClusterNode) -> ClusterNode:
        """Return the node that serves a slot, as a node sees it."""
        for first, last, master, *_ in asked.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise LookupError(f"nobody serves slot {slot}")

    def replica_of(self, master: ClusterNode) -> ClusterNode:
        """Return a node that runs and follows a master."""
        return next(node for node in self.running if node.ask("ROLE")[:3] == ["slave", *_host_and_port(master)])

    def kill(self, node: ClusterNode) -> None:
        """End a node as a power cut would."""
        os.kill(node.process.pid, signal.SIGKILL)
        node.process.wait_stopped(END_SECONDS)

    def lose(self, node: ClusterNode) -> None:
        """End a node and everything that it had on its disk."""
        self.kill(node)
        shutil.rmtree(node.folder)

    def freeze(self, node: ClusterNode) -> None:
        """Let a node hang: connections stand, nothing is answered."""
        os.kill(node.process.pid, signal.SIGSTOP)

    def thaw(self, node: ClusterNode) -> None:
        """End a freeze."""
        os.kill(node.process.pid, signal.SIGCONT)

    def restart(self, node: ClusterNode) -> None:
        """Start a node again on the data that it has, and return once it answers."""
        node.start().wait_until(node.answers, END_SECONDS)

    def wait_failed_over(self, lost: ClusterNode) -> None:
        """Return when every node that runs has the slots of a lost master with another one that serves them."""
        self.wait_until(lambda: self.is_replaced(lost))

    def is_replaced(self, master: ClusterNode) -> bool:
        """Return whether every other node that runs has the slots of a master with another one."""
        return all(_is_served_without(master, node) for node in self.running if node is not master)

    def join(self, node: ClusterNode) -> None:
        """Start a node that has no slots and no functions, and make it a master of the cluster."""
        node.start().wait_until(node.answers, END_SECONDS)
        self.introduce(node)
        self.wait_until(lambda: all(is_settled(one, len(self.nodes)) for one in self.running))

    def add_replica(self, master: ClusterNode) -> ClusterNode:
        """Give a master a replica that has nothing yet; return once it follows."""
        (replica,) = self.add_nodes(1)
        self.join(replica)
        assert replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        self.wait_until(lambda: replica.ask("ROLE")[:1] + replica.ask("ROLE")[3:4] == ["slave", "connected"])
        return replica

    def move_slot(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move a slot to another master, key by key, as every version of Redis can."""
        self.begin_move(slot, source, target)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 500):
            self.move_keys(keys, source, target)
        self.end_move(slot, source, target)

    def move_slot_at_once(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move a slot to another master as Valkey 9 does it: it is there, or it is here."""
        assert source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.ask("CLUSTER", "MYID"))
        self.wait_until(lambda: all(self.master_of_slot(slot, node) is target for node in self.running))

    def begin_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Let both masters know that a slot is being moved."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))

    def move_keys(self, keys: Sequence[str], source: ClusterNode, target: ClusterNode) -> None:
        """Move some keys of a slot that is being moved."""
        host, port = _host_and_port(target)
        source.ask("MIGRATE", host, port, "", 0, 5_000, "AUTH", self.password, "KEYS", *keys)

    def end_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Give a slot to its new master; returns when every master knows."""
        target_id = target.ask("CLUSTER", "MYID")
        for node in (target, source, *(one for one in self.masters if one not in (source, target))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)


def _host_and_port(node: ClusterNode) -> tuple[str, int]:
    host, _, port = node.address.rpartition(":")
    return host, int(port)


def _is_served_without(lost: ClusterNode, node: ClusterNode) -> bool:
    try:
        if info_of(node)["cluster_state"] != "ok":
            return False
        shards = node.ask("CLUSTER", "SLOTS")
    except redis.RedisError:
        return False
    masters = {master[1] for _, _, master, *_ in shards}
    return lost.port not in masters and sum(last - first + 1 for first, last, *_ in shards) == 16_384


@contextlib.contextmanager
def running_cluster(
    folder: Path, *, masters: int = 3, replicas: int = 1, settings: dict[str, str] | None = None
) -> Iterator[Cluster]:
    """Run a cluster in ``folder`` and end it afterwards.

    Args:
        folder: Where it may write; created when missing.
        masters: How many nodes have slots.
        replicas: How many replicas each of them has.
        settings: Settings of ``valkey.conf`` for every node.

    Yields:
        The cluster, which serves.
    """
    cluster = _started(folder, masters, replicas, settings)
    try:
        yield cluster
    finally:
        for node in cluster.running:
            cluster.thaw(node)
        cluster.stop()


def _started(folder: Path, masters: int, replicas: int, settings: dict[str, str] | None) -> Cluster:
    # Between finding free ports and binding them somebody else may take one.
    for attempt in range(START_ATTEMPTS):
        cluster = Cluster(folder / str(attempt), masters=masters, replicas=replicas, settings=settings)
        cluster.start()
        try:
            cluster.wait()
        except StackFailedError:
            cluster.stop()
            if attempt == START_ATTEMPTS - 1:
                raise
        else:
            return cluster
    raise AssertionError
