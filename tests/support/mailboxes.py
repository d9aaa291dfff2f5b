"""Mailboxes on a real Valkey, and messages to put into them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.protocol.identifiers import Address
from keypost_services.delivery.connecting import servers_at
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.mailboxes import (
    Durability,
    MailboxesUnavailableError,
    MailboxLimits,
    MessageName,
    Posting,
)
from keypost_services.delivery.store_valkey import ValkeyMailboxes, channel_of
from keypost_services.delivery.wake_ups import WakeUpSubscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from redis.asyncio import Redis

    from keypost_services.delivery.mailboxes import Acceptance, Mailboxes
    from keypost_services.delivery.servers import Servers

NOW = 1_800_000_000_000
ALICE = Address("alice", "aaaaaaaaaaaaaaaa")
ALICE_TABLET = Address("alice", "dddddddddddddddd")
BOB = Address("bob", "bbbbbbbbbbbbbbbb")
BOB_TABLET = Address("bob", "cccccccccccccccc")
LIMITS = MailboxLimits(messages=10, size=1000)

_numbers = itertools.count(1)


@dataclass
class OpenMailboxes:
    """Mailboxes with what a test needs to look behind them."""

    mailboxes: ValkeyMailboxes
    servers: Servers
    wake_ups: list[int]

    @property
    def client(self) -> Redis:
        """A client of the first server."""
        return self.servers.serving[0].client

    def client_of(self, address: Address) -> Redis:
        """Return a client of the server that has a mailbox."""
        server = self.servers.server_of(channel_of(address))
        assert server is not None
        return server.client

    async def clear(self) -> None:
        """Forget everything that any server has."""
        await asyncio.gather(*(server.client.flushdb() for server in self.servers.serving))


@contextlib.asynccontextmanager
async def open_mailboxes(
    url: str,
    *,
    limits: MailboxLimits = LIMITS,
    durability: Durability = Durability.MEMORY,
    replica_timeout: int = 1_000,
    answer_seconds: float = 5,
) -> AsyncIterator[OpenMailboxes]:
    """Open the mailboxes of one replica."""
    functions = FunctionLibrary()
    wake_ups: list[int] = []
    async with (
        servers_at(url, functions, connect_seconds=1, answer_seconds=answer_seconds) as servers,
        WakeUpSubscriptions(servers, lambda: wake_ups.append(1), lambda: 0.0) as subscriptions,
    ):
        mailboxes = ValkeyMailboxes(
            servers, subscriptions, functions, limits, durability, replica_timeout=replica_timeout
        )
        await mailboxes.prepare()
        yield OpenMailboxes(mailboxes, servers, wake_ups)


def new_name(sender: Address = ALICE) -> MessageName:
    """Return a name that no other message has."""
    return MessageName(sender, next(_numbers).to_bytes(16, "big"))


def posting(
    body: bytes = b"sealed",
    *addresses: Address,
    name: MessageName | None = None,
    accept_time: int = NOW,
    mailbox_age: int = 30 * DAY,
) -> Posting:
    """Return a message to the addresses (Bob's first device unless named); its bytes are its digest."""
    return Posting(
        name=name or new_name(),
        digest=hashlib.sha256(body).digest(),
        accept_time=accept_time,
        mailbox_age=mailbox_age,
        envelopes=dict.fromkeys(addresses or (BOB,), body),
    )


async def append(mailboxes: Mailboxes, message: Posting) -> Mapping[Address, Acceptance]:
    """Append one message, and return what its mailboxes say, or raise why one of them said nothing."""
    return _only(await mailboxes.append_all([message]))


async def foresee(mailboxes: Mailboxes, message: Posting) -> Mapping[Address, Acceptance]:
    """Return what ``append`` would say now."""
    return _only(await mailboxes.foresee_all([message]))


def _only(
    results: Sequence[Mapping[Address, Acceptance] | MailboxesUnavailableError],
) -> Mapping[Address, Acceptance]:
    (result,) = results
    if isinstance(result, MailboxesUnavailableError):
        raise result
    return result
