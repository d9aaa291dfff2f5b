from __future__ import annotations

from keypost_services.delivery.slots import read_slots

ASKED = ("127.0.0.1", 7000)
REPLY = [
    [0, 5460, [b"10.0.0.1", 7001, b"id1", []], [b"10.0.0.4", 7004, b"id4", []]],
    [5461, 5461, [b"10.0.0.2", 7002, b"id2", []]],
    [5463, 16383, [b"", 7003, b"id3"], [b"?", 7006, b"id6"]],
]


def test_each_slot_has_the_master_of_its_range() -> None:
    found = read_slots(REPLY, ASKED)
    assert [found.node_of(slot) for slot in (0, 5460, 5461)] == [("10.0.0.1", 7001)] * 2 + [("10.0.0.2", 7002)]
    assert found.node_of(5462) is None
    assert found.masters == [("10.0.0.1", 7001), ("10.0.0.2", 7002), ("127.0.0.1", 7003)]


def test_a_node_without_a_name_is_where_the_one_is_that_was_asked() -> None:
    found = read_slots(REPLY, ASKED)
    assert found.node_of(16_383) == ("127.0.0.1", 7003)
    assert found.replicas == [("10.0.0.4", 7004), ("127.0.0.1", 7006)]
    assert read_slots([[0, 1, [None, 7003, b"id3"]]], ASKED).node_of(1) == ("127.0.0.1", 7003)


def test_a_slot_moves_alone_and_a_replica_that_has_one_is_a_master() -> None:
    found = read_slots(REPLY, ASKED)
    found.move(7, ("10.0.0.4", 7004))
    assert [found.node_of(slot) for slot in (6, 7)] == [("10.0.0.1", 7001), ("10.0.0.4", 7004)]
    assert ("10.0.0.4", 7004) in found.masters
    assert ("10.0.0.4", 7004) not in found.replicas
    assert not found.agrees(read_slots(REPLY, ASKED))
    assert read_slots(REPLY, ASKED).agrees(read_slots(REPLY[::-1], ASKED))
