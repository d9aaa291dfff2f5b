from __future__ import annotations

import pytest

from keypost_services.runtime.buckets import Buckets, peer_address
from support.clock import ManualClock


def test_a_bucket_is_empty_after_its_size_and_fills_at_its_rate() -> None:
    clock = ManualClock()
    buckets = Buckets(clock, size=2, per_second=4)
    assert [buckets.take("a"), buckets.take("a")] == [0, 0]
    assert buckets.take("a") == 251
    assert buckets.take("b") == 0
    clock.advance(250)
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0


def test_a_bucket_never_holds_more_than_its_size_and_a_clock_may_go_back() -> None:
    clock = ManualClock()
    buckets = Buckets(clock, size=1, per_second=1)
    buckets.give_back("a")
    clock.advance(100_000)
    assert buckets.take("a") == 0
    clock.advance(-50_000)
    assert buckets.take("a") > 0
    buckets.give_back("a")
    assert buckets.take("a") == 0


def test_the_bucket_unused_longest_is_forgotten() -> None:
    buckets = Buckets(ManualClock(), size=1, per_second=0.001, most=2)
    for name in ("a", "b", "c"):
        assert buckets.take(name) == 0
    assert buckets.take("c") > 0
    assert buckets.take("a") == 0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8:1:2:3::1%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::9]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:4711", "192.0.2.1"),
        ("unix:/run/keypost.sock", "unix"),
        ("", ""),
    ],
)
def test_a_peer_counts_by_its_network_address(peer: str, address: str) -> None:
    assert peer_address(peer) == address
