from __future__ import annotations

import pytest

from keypost_services.delivery.cluster_url import is_cluster_url, read_cluster_url


@pytest.mark.parametrize(
    ("url", "nodes", "first"),
    [
        ("redis+cluster://a:7000,b.example:7001", (("a", 7000), ("b.example", 7001)), "redis://a:7000"),
        ("redis+cluster://a", (("a", 6379),), "redis://a:6379"),
        ("rediss+cluster://n:p%40w@a:7000/", (("a", 7000),), "rediss://n:p%40w@a:7000"),
        ("redis+cluster://:pw@[::1]:7000,a:1", (("::1", 7000), ("a", 1)), "redis://:pw@[::1]:7000"),
        ("rediss+cluster://a:1?ssl_ca_certs=/ca.pem", (("a", 1),), "rediss://a:1?ssl_ca_certs=/ca.pem"),
    ],
)
def test_it_names_nodes_and_makes_the_url_of_each(url: str, nodes: tuple[tuple[str, int], ...], first: str) -> None:
    found = read_cluster_url(url)
    assert found.nodes == nodes
    assert found.node_url(*nodes[0]) == first
    assert is_cluster_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://a:7000",
        "redis+cluster://",
        "redis+cluster://:secret@",
        "redis+cluster://:secret@a:7000,",
        "redis+cluster://:secret@a:70000",
        "redis+cluster://:secret@a:7000,b:x",
        "redis+cluster://:secret@a:7000/1",
        "unix+cluster://:secret@a:7000",
    ],
)
def test_what_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="cluster's URL") as refusal:
        read_cluster_url(url)
    assert "secret" not in str(refusal.value)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(read_cluster_url("redis+cluster://:secret@a:7000"))
