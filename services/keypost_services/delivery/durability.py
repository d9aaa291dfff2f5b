"""The start-up check of the mailbox server: delivery does not start on one that would lose mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from keypost_services.delivery.store_valkey import Durability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

WANTED: Mapping[Durability, Mapping[str, tuple[str, ...]]] = {
    Durability.MEMORY: {},
    Durability.PROCESS: {"appendonly": ("yes",), "appendfsync": ("everysec", "always")},
    Durability.FSYNC: {"appendonly": ("yes",), "appendfsync": ("always",)},
    Durability.REPLICATED: {"appendonly": ("yes",), "appendfsync": ("everysec", "always")},
}
"""What the server's settings must be, one of the values each."""
ALWAYS_WANTED: Mapping[str, tuple[str, ...]] = {"maxmemory-policy": ("noeviction",)}


class MailboxServerRefusedError(Exception):
    """The server is not fit to hold mailboxes; the message is one line that says what to change."""


async def check_mailbox_server(client: Redis, durability: Durability) -> None:
    """Refuse a mailbox server that evicts, or keeps less than ``durability`` promises.

    Raises:
        MailboxServerRefusedError: it does, it cannot be reached, or it does not tell.
    """
    wanted = {**ALWAYS_WANTED, **WANTED[durability]}
    try:
        found = await client.config_get(*wanted)
    except (RedisError, OSError) as error:
        raise MailboxServerRefusedError(f"the mailbox server does not tell its settings: {error}") from error
    for name, values in wanted.items():
        _check(name, values, found.get(name), durability)


def _check(name: str, values: tuple[str, ...], found: str | bytes | None, durability: Durability) -> None:
    value = found.decode() if isinstance(found, bytes) else found
    if value not in values:
        raise MailboxServerRefusedError(
            f"the mailbox server has {name} {value}, durability {durability.value} needs {' or '.join(values)}"
        )
