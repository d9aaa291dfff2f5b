"""The start-up check of the mailbox server: delivery does not start on one that would lose mail."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from keypost_services.delivery.mailboxes import Durability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost_services.delivery.servers import Server, Servers

WANTED: Mapping[Durability, Mapping[str, tuple[str, ...]]] = {
    Durability.MEMORY: {},
    Durability.PROCESS: {"appendonly": ("yes",), "appendfsync": ("everysec", "always")},
    Durability.FSYNC: {"appendonly": ("yes",), "appendfsync": ("always",)},
    Durability.REPLICATED: {"appendonly": ("yes",), "appendfsync": ("everysec", "always")},
}
"""What the server's settings must be, one of the values each."""
ALWAYS_WANTED: Mapping[str, tuple[str, ...]] = {"maxmemory-policy": ("noeviction",)}


class MailboxServerRefusedError(Exception):
    """A server is not fit to hold mailboxes; the message is one line that says what to change."""


class _SilentError(MailboxServerRefusedError):
    """It does not tell whether it is fit."""


async def check_mailbox_servers(servers: Servers, durability: Durability) -> None:
    """Refuse mailbox servers of which one evicts, or keeps less than ``durability`` promises.

    A replica is looked at too, since it takes its master's place as it is; one that does not answer takes none.

    Raises:
        MailboxServerRefusedError: one does, it cannot be reached, or it does not tell.
    """
    for server in servers.serving:
        await _check_server(server, durability)
    for server in servers.spare:
        with contextlib.suppress(_SilentError):
            await _check_server(server, durability)


async def _check_server(server: Server, durability: Durability) -> None:
    wanted = {**ALWAYS_WANTED, **WANTED[durability]}
    name = f"the mailbox server {server.name}".rstrip()
    try:
        found = await server.client.config_get(*wanted)
    except (RedisError, OSError) as error:
        raise _SilentError(f"{name} does not tell its settings: {error}") from error
    for setting, values in wanted.items():
        value = found.get(setting)
        text = value.decode() if isinstance(value, bytes) else value
        if text not in values:
            raise MailboxServerRefusedError(
                f"{name} has {setting} {text}, durability {durability.value} needs {' or '.join(values)}"
            )


async def memory_share(servers: Servers) -> float | None:
    """Return how much of its memory the fullest mailbox server uses, 0 to 1 or above; None if none answers.

    A server without `maxmemory` counts as 0: how much there is nobody knows.
    """
    answers = await asyncio.gather(*(_memory_share(server) for server in servers.serving), return_exceptions=True)
    shares = []
    for answer in answers:
        if isinstance(answer, float):
            shares.append(answer)
        elif not isinstance(answer, RedisError | OSError):
            raise answer
    return max(shares, default=None)


async def _memory_share(server: Server) -> float:
    memory = await server.client.info("memory")
    most = int(memory["maxmemory"])
    return int(memory["used_memory"]) / most if most else 0.0
