"""The URL of a cluster: some of its nodes, and what holds for all of them.

``redis+cluster://name:password@host:port,host:port``, or ``rediss+cluster://`` for TLS. The nodes named are asked for
all others; name and password are those of every node. A query such as ``?ssl_ca_certs=…`` goes to every node too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
"""The scheme of a cluster's URL, and that of its nodes'."""
_PORT = 6379
_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/?]*)@)?(?P<nodes>[^@/?]+)/?(?P<query>\?.*)?")
_NODE = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class ClusterUrl:
    """What a cluster's URL says.

    Attributes:
        nodes: Host and port of the nodes that it names, one at least.
    """

    nodes: tuple[tuple[str, int], ...]
    _scheme: str
    _user: str = field(repr=False)
    _query: str = field(repr=False)

    def node_url(self, host: str, port: int) -> str:
        """Return the URL of one node, for redis-py; it holds the password."""
        bracketed = f"[{host}]" if ":" in host else host
        return f"{self._scheme}://{self._user}{bracketed}:{port}{self._query}"


def is_cluster_url(url: str) -> bool:
    """Return whether a URL says that it is of a cluster."""
    return url.partition("://")[0] in CLUSTER_SCHEMES


def read_cluster_url(url: str) -> ClusterUrl:
    """Return what a cluster's URL says.

    Raises:
        ValueError: it is none; the message does not repeat it, for it may hold a password.
    """
    found = _URL.fullmatch(url)
    if found is None or found["scheme"] not in CLUSTER_SCHEMES:
        raise ValueError("a cluster's URL is such as redis+cluster://name:password@host:6379,host:6379")
    user = f"{found['user']}@" if found["user"] else ""
    nodes = tuple(_node(text) for text in found["nodes"].split(","))
    return ClusterUrl(nodes, CLUSTER_SCHEMES[found["scheme"]], user, found["query"] or "")


def _node(text: str) -> tuple[str, int]:
    found = _NODE.fullmatch(text)
    if found is None or int(found["port"] or _PORT) > 65_535:  # noqa: PLR2004  # the highest port
        raise ValueError("each node of a cluster's URL is host:port")
    return found["host"].strip("[]"), int(found["port"] or _PORT)
