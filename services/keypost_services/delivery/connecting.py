"""From the URL of the mailboxes to their servers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from keypost_services.delivery.cluster import ClusterServers
from keypost_services.delivery.cluster_url import is_cluster_url, read_cluster_url
from keypost_services.delivery.servers import OneServer
from keypost_services.runtime.redis import ANSWER_SECONDS, CONNECT_SECONDS, redis_client

if TYPE_CHECKING:
    from keypost_services.delivery.functions import FunctionLibrary
    from keypost_services.delivery.servers import Servers


def servers_at(
    url: str,
    functions: FunctionLibrary,
    *,
    connect_seconds: float = CONNECT_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> Servers:
    """Return the servers behind a URL: a cluster, if its scheme says so, or one server.

    Args:
        url: As in ``cluster_url``, or as redis-py has it.
        functions: What every server must have.
        connect_seconds: How long connecting may take.
        answer_seconds: How long an answer may take.

    Raises:
        ValueError: the URL is none.
    """
    connect = partial(redis_client, connect_seconds=connect_seconds, answer_seconds=answer_seconds)
    if is_cluster_url(url):
        return ClusterServers(read_cluster_url(url), connect, functions)
    return OneServer(connect(url), functions)
