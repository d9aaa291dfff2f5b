from __future__ import annotations

import pytest

from keypost_services.runtime.buckets import peer_address
from keypost_services.runtime.proxies import MOST_HOPS, TrustedProxies, read_networks

PROXIES = TrustedProxies(read_networks("192.0.2.0/24, 2001:db8:1::/48"))
GATEWAY = "ipv4:192.0.2.7:4711"
STRANGER = "ipv4:198.51.100.7:4711"


def said(*lines: str | bytes) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "grpc"), *(("x-forwarded-for", line) for line in lines), ("x-other", "203.0.113.99")]


@pytest.mark.parametrize(
    ("lines", "caller"),
    [
        (["203.0.113.1"], "ipv4:203.0.113.1:0"),
        (["10.0.0.1, 203.0.113.1"], "ipv4:203.0.113.1:0"),
        (["10.0.0.1,203.0.113.1 , 192.0.2.9,192.0.2.8"], "ipv4:203.0.113.1:0"),
        (["10.0.0.1", "203.0.113.1", "192.0.2.9"], "ipv4:203.0.113.1:0"),
        (["rubbish, 203.0.113.1"], "ipv4:203.0.113.1:0"),
        (["2001:DB8:2::1"], "ipv6:%5B2001:db8:2::1%5D:0"),
        (["2001:db8:2::1, 2001:db8:1::1"], "ipv6:%5B2001:db8:2::1%5D:0"),
        (["::ffff:203.0.113.1"], "ipv4:203.0.113.1:0"),
        (["203.0.113.1, ::ffff:192.0.2.9"], "ipv4:203.0.113.1:0"),
        ([",".join(["203.0.113.1"] * 2_000)], "ipv4:203.0.113.1:0"),
    ],
)
def test_the_outermost_proxy_that_is_trusted_says_who_calls(lines: list[str], caller: str) -> None:
    assert PROXIES.caller_of(GATEWAY, said(*lines)) == caller


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        [","],
        ["rubbish"],
        ["203.0.113.1, rubbish"],
        ["203.0.113.1,"],
        ["203.0.113.1", ""],
        ["203.0.113.1, rubbish, 192.0.2.9"],
        ["203.0.113.1:4711"],
        ["[2001:db8:2::1]"],
        ["fe80::1%eth0"],
        ["203.0.113.1/32"],
        ["203.0.113.01"],
        ["192.0.2.8"],
        [b"203.0.113.1"],
        ["9" * 16_000],
        [",".join(["203.0.113.1", *["192.0.2.9"] * MOST_HOPS])],
    ],
)
def test_what_is_not_as_proxies_write_it_counts_as_the_proxy(lines: list[str | bytes]) -> None:
    assert PROXIES.caller_of(GATEWAY, said(*lines)) == GATEWAY


@pytest.mark.parametrize("peer", [STRANGER, "ipv6:%5B2001:db8:2::1%5D:4711", "unix:/run/keypost.sock", "unix:", ""])
def test_nobody_else_is_believed(peer: str) -> None:
    assert PROXIES.caller_of(peer, said("203.0.113.1")) == peer


def test_without_a_setting_nobody_is_believed() -> None:
    assert TrustedProxies(read_networks("")).caller_of(GATEWAY, said("203.0.113.1")) == GATEWAY


@pytest.mark.parametrize("peer", ["ipv6:%5B2001:db8:1::5%5D:4711", "ipv6:%5B::ffff:192.0.2.7%5D:4711"])
def test_a_proxy_is_known_by_whichever_address_it_has(peer: str) -> None:
    caller = PROXIES.caller_of(peer, said("203.0.113.1"))
    assert peer_address(caller) == "203.0.113.1"


def test_a_caller_of_ipv6_counts_by_its_network_through_a_proxy_too() -> None:
    assert peer_address(PROXIES.caller_of(GATEWAY, said("2001:db8:2:3::1"))) == "2001:db8:2:3::/64"


@pytest.mark.parametrize("text", ["gateway", "192.0.2.1/24", "192.0.2.0/33", "0.0.0.0/0", "192.0.2.0/24;10.0.0.0/8"])
def test_what_is_no_network_or_everybody_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.partition(";")[0].partition("/")[0]):
        read_networks(text)
