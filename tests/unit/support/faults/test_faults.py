from __future__ import annotations

import itertools
import random
from dataclasses import replace

from support.faults.faults import ALL, Fault, Kind, Places, endless_faults, few_faults, few_faults_of_cluster

REPLICAS = ("delivery", "delivery-2")
DEVICES = ("alice-1", "bob-1")
WAYS = (
    *(f"{device}>{service}" for device in DEVICES for service in ("ca", "directory", "delivery")),
    *(f"{replica}>{service}" for replica in REPLICAS for service in ("directory", "valkey")),
    "directory>ca",
)
NODES = ("node-1", "node-2")
PLACES = Places(("valkey", "ca", "directory", *REPLICAS), REPLICAS, (), DEVICES, WAYS)
CLUSTER = replace(PLACES, nodes=NODES)


def drawn(seed: int, count: int) -> list[Fault]:
    faults = itertools.chain.from_iterable(endless_faults(random.Random(seed), PLACES))
    return list(itertools.islice(faults, count))


def test_the_same_seed_draws_the_same_faults() -> None:
    assert drawn(1, 100) == drawn(1, 100) != drawn(2, 100)


def test_every_process_is_killed_in_turn_first() -> None:
    killed = drawn(1, 7)
    assert [fault.target for fault in killed] == [*PLACES.servers, *DEVICES]
    assert {fault.kind for fault in killed} == {Kind.KILL}


def test_sixty_faults_are_every_kind_at_every_kind_of_place() -> None:
    faults = drawn(3, 60)
    assert {fault.kind for fault in faults} == set(Kind) - {Kind.LOSE}
    for server in PLACES.servers:
        assert {fault.kind for fault in faults if fault.target == server} >= {Kind.KILL, Kind.FREEZE}
    for service in ("ca", "directory", "delivery", "valkey"):
        to_it = {fault.kind for fault in faults if fault.target.endswith(f">{service}")}
        assert to_it == {Kind.CUT, Kind.CUT_AMID, Kind.REFUSE, Kind.STALL, Kind.MUTE}


def test_some_come_together_but_never_at_one_place() -> None:
    several = [faults for faults in itertools.islice(endless_faults(random.Random(6), PLACES), 200) if len(faults) > 1]
    assert 10 < len(several) < 100
    assert all(first.target != second.target for first, second in several)


def test_each_node_of_a_cluster_is_lost_but_no_two_of_them_fail_at_once() -> None:
    several = list(itertools.islice(endless_faults(random.Random(7), CLUSTER), 300))
    lost = {fault.target for faults in several for fault in faults if fault.kind is Kind.LOSE}
    assert lost == set(NODES)
    assert all(sum(fault.target in NODES for fault in faults) < 2 for faults in several)
    few = list(itertools.chain.from_iterable(few_faults_of_cluster(random.Random(8), CLUSTER)))
    assert {fault.target for fault in few if fault.kind is Kind.LOSE} == set(NODES)


def test_faults_last_only_where_that_means_something() -> None:
    for fault in drawn(4, 120):
        assert bool(fault.seconds) is (fault.kind not in (Kind.KILL, Kind.LOSE, Kind.CUT, Kind.CUT_AMID))
        assert bool(fault.size) is (fault.kind is Kind.CUT_AMID)
        assert fault.target in {*PLACES.servers, *DEVICES, *WAYS, f"{ALL}>delivery", f"{ALL}>directory"}


def test_the_short_selection_kills_each_kind_of_process_and_has_most_kinds() -> None:
    faults = list(itertools.chain.from_iterable(few_faults(random.Random(5), PLACES)))
    killed = {fault.target for fault in faults if fault.kind is Kind.KILL}
    assert killed >= {"valkey", "ca", "directory"}
    assert killed & set(REPLICAS)
    assert killed & set(DEVICES)
    assert {fault.kind for fault in faults} == set(Kind) - {Kind.REFUSE, Kind.LOSE}
