"""The start-up check of the mailbox server: delivery does not start on one that would lose mail."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from keypost_services.delivery.store_valkey import Durability

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
