"""Mailboxes on a real Valkey, and messages to put into them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.protocol.identifiers import Address
from keypost_services.delivery.mailboxes import MailboxLimits, MessageName, Posting
from keypost_services.delivery.store_valkey import Durability, ValkeyMailboxes
from keypost_services.delivery.wake_ups import WakeUpSubscriptions
from keypost_services.runtime.redis import redis_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

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
    client: Redis
    wake_ups: list[int]


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
    client = redis_client(url, connect_seconds=1, answer_seconds=answer_seconds)
    wake_ups: list[int] = []
    async with client, WakeUpSubscriptions(client, lambda: wake_ups.append(1), lambda: 0.0) as subscriptions:
        mailboxes = ValkeyMailboxes(client, subscriptions, limits, durability, replica_timeout=replica_timeout)
        await mailboxes.prepare()
        yield OpenMailboxes(mailboxes, client, wake_ups)


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
