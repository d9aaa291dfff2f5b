"""The cluster that tests and trials run on: it forms, keeps, fails over and moves slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.crc import key_slot
from redis.retry import Retry

from support.valkey_cluster import Cluster, running_cluster

if TYPE_CHECKING:
    from pathlib import Path


def _set(cluster: Cluster, key: str, value: str) -> None:
    cluster.master_of(key).ask("SET", key, value)


def test_three_masters_share_all_slots_and_have_a_replica_each(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        assert len(cluster.masters) == 3
        replicas = {cluster.replica_of(master).port for master in cluster.masters}
        assert len(replicas) == 3
        slots = cluster.nodes[5].ask("CLUSTER", "SLOTS")
        assert sum(last - first + 1 for first, last, *_ in slots) == 16_384
        settings = cluster.nodes[4].ask("CONFIG", "GET", "appendfsync")
        assert settings == {"appendfsync": "always"}
        never = Retry(ConstantBackoff(0), 0)
        with (
            redis.Redis(port=cluster.nodes[0].port, retry=never) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_a_replica_takes_over_from_a_master_that_was_lost_with_its_disk(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        _set(cluster, "a", "1")
        lost = cluster.master_of("a")
        replica = cluster.replica_of(lost)
        assert lost.ask("WAIT", 1, 5_000) == 1
        cluster.lose(lost)
        cluster.wait_failed_over(lost)
        assert cluster.master_of("a") is replica
        assert replica.ask("GET", "a") == "1"


def test_a_slot_moves_to_a_node_that_joined(tmp_path: Path) -> None:
    with running_cluster(tmp_path, replicas=0) as cluster:
        _set(cluster, "a", "1")
        source = cluster.master_of("a")
        (target,) = cluster.add_nodes(1)
        cluster.join(target)
        cluster.move_slot(key_slot(b"a"), source, target)
        assert target.ask("GET", "a") == "1"
        with pytest.raises(redis.exceptions.MovedError):
            source.ask("GET", "a")


def test_it_is_the_same_cluster_at_its_next_start(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for expected in (None, "1"):
        cluster.start()
        try:
            cluster.wait()
            assert cluster.master_of("a").ask("GET", "a") == expected
            _set(cluster, "a", "1")
        finally:
            cluster.stop()
        ports = [node.port for node in cluster.nodes]
        cluster = Cluster(tmp_path)
        assert [node.port for node in cluster.nodes] == ports
