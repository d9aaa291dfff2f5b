"""Mailboxes in Redis or Valkey: a stream each, changed by server functions alone (``mailboxes.lua``)."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from keypost.clock import DAY
from keypost_services.delivery.functions import FunctionLibrary, is_missing
from keypost_services.delivery.mailboxes import (
    DELIVERY_ID,
    Acceptance,
    Backlog,
    Claim,
    Load,
    MailboxesUnavailableError,
    MailboxLimits,
    MessageName,
    Outcome,
    Page,
    Posting,
    ReceiverDisplacedError,
    Waiting,
    WakeUps,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    from keypost.protocol.identifiers import Address
    from keypost_services.delivery.wake_ups import WakeUpSubscriptions

TIME_DIGITS = 15
CLAIM_LIFETIME = DAY
DIGEST_BYTES = 32
MOST_AT_ONCE = 64


class Durability(enum.StrEnum):
    """What holds when a sender is told that a message is stored."""

    MEMORY = "memory"
    """It is in the memory of the server."""
    PROCESS = "process"
    """It survives the server's process; a power cut loses a second."""
    FSYNC = "fsync"
    """It is on the disk."""
    REPLICATED = "replicated"
    """It is on the disk, and on that of a replica."""


class ValkeyMailboxes:
    """The adapter of :class:`~keypost_services.delivery.mailboxes.Mailboxes` for Redis and Valkey.

    Args:
        client: A client of the server, with bounded timeouts, that returns bytes.
        subscriptions: Where the wake-ups come from.
        limits: How much a mailbox holds.
        durability: What must hold before an append is answered.
        replica_timeout: How long an append waits for the replica's disk, milliseconds (``REPLICATED`` alone).
    """

    def __init__(
        self,
        client: Redis,
        subscriptions: WakeUpSubscriptions,
        limits: MailboxLimits,
        durability: Durability,
        *,
        replica_timeout: int = 2_000,
    ) -> None:
        self._client = client
        self._subscriptions = subscriptions
        self._limits = limits
        self._durability = durability
        self._replica_timeout = replica_timeout
        self._functions = FunctionLibrary()
        # The client's pool refuses when it is used up; here one waits.
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def append(self, posting: Posting) -> Mapping[Address, Acceptance]:
        """Append a message to each mailbox that does not know its name yet, and wake their receivers."""
        (result,) = await self.append_all([posting])
        if isinstance(result, MailboxesUnavailableError):
            raise result
        return result

    async def append_all(
        self, postings: Sequence[Posting]
    ) -> Sequence[Mapping[Address, Acceptance] | MailboxesUnavailableError]:
        """Append many messages in one round trip; returns for each what ``append`` does or raises."""
        commands = [self._append_command(posting, *item) for posting in postings for item in posting.envelopes.items()]
        if not commands:
            return [{} for _ in postings]
        if self._durability is Durability.REPLICATED:
            commands.append(("WAITAOF", 1, 1, self._replica_timeout))
        try:
            replies = await self._run(commands)
            if self._durability is Durability.REPLICATED:
                _check_replicated(replies.pop())
        except MailboxesUnavailableError as error:
            return [error for _ in postings]
        acceptances = map(_acceptance, replies)
        return [dict(zip(posting.envelopes, acceptances, strict=False)) for posting in postings]

    async def foresee(self, posting: Posting) -> Mapping[Address, Acceptance]:
        """Return what ``append`` would say now."""
        replies = await self._run([self._foresee_command(posting, *item) for item in posting.envelopes.items()])
        return dict(zip(posting.envelopes, map(_acceptance, replies), strict=True))

    def _append_command(self, posting: Posting, address: Address, envelope: bytes) -> tuple[Any, ...]:
        return self._functions.command(
            "append", _append_keys(posting, address), *self._terms(posting), channel_of(address), envelope
        )

    def _foresee_command(self, posting: Posting, address: Address, envelope: bytes) -> tuple[Any, ...]:
        return self._functions.command("foresee", _append_keys(posting, address), *self._terms(posting), len(envelope))

    def _terms(self, posting: Posting) -> tuple[str | bytes | int, ...]:
        limits = self._limits
        return (
            *(posting.digest, posting.accept_time, posting.mailbox_age, limits.messages, limits.size),
            *(posting.name.sender.username, limits.sender_messages, limits.sender_size),
        )

    async def find(self, name: MessageName, addresses: Collection[Address]) -> Mapping[Address, bytes]:
        """Return the digests under which a message was accepted, by mailbox."""
        replies = await self._run([("GET", _seen(address, name)) for address in addresses])
        found = zip(addresses, replies, strict=True)
        return {address: seen[:DIGEST_BYTES] for address, seen in found if seen is not None}

    async def claim(self, claim: Claim) -> str:
        """Claim a mailbox, displacing whoever held it; returns the last delivery id there is."""
        keys = (_waiting(claim.address), _receiver(claim.address))
        args = (channel_of(claim.address), claim.receiver, CLAIM_LIFETIME)
        newest: bytes = await self._call("claim", keys, *args)
        return newest.decode()

    async def release(self, claim: Claim) -> None:
        """Give a claim up; nothing happens if it is another's by now."""
        await self._call("release", (_receiver(claim.address),), claim.receiver)

    async def read(self, claim: Claim, after: str, page: Page, oldest: int) -> Sequence[Waiting]:
        """Return the next envelopes after a delivery id, in order."""
        address = claim.address
        keys = (*_contents(address), _receiver(address))
        args = (claim.receiver, CLAIM_LIFETIME, after, page.messages, page.size, oldest)
        verdict, *entries = await self._call("read", keys, *args)
        if verdict == b"displaced":
            raise ReceiverDisplacedError
        return [Waiting(name.decode(), _accept_time(time), envelope) for name, time, envelope in entries]

    async def acknowledge(self, address: Address, delivery_ids: Collection[str]) -> int:
        """Forget envelopes; returns how many there were."""
        known = [delivery_id for delivery_id in delivery_ids if DELIVERY_ID.fullmatch(delivery_id)]
        if not known:
            return 0
        count: int = await self._call("acknowledge", _contents(address), *known)
        return count

    async def empty(self, address: Address) -> int:
        """Forget everything that waits in a mailbox; returns how many envelopes that were."""
        count: int = await self._call("empty", _contents(address))
        return count

    async def waiting(self, address: Address) -> Load:
        """Return what a mailbox holds."""
        messages, size = await self._run([("XLEN", _waiting(address)), ("HGET", _load(address), "bytes")])
        return Load(messages, int(size or 0))

    async def backlogs(self, addresses: Collection[Address]) -> Mapping[Address, Backlog]:
        """Return what waits in each of these mailboxes."""
        commands = [self._functions.command("backlog", (_waiting(address),)) for address in addresses]
        replies = await self._run(commands) if commands else []
        return {
            address: Backlog(messages, _accept_time(oldest))
            for address, (messages, oldest) in zip(addresses, replies, strict=True)
        }

    def watch(self, address: Address) -> AbstractAsyncContextManager[WakeUps]:
        """Return a context in which wake-ups of a mailbox arrive."""
        return self._subscriptions.subscribed(channel_of(address))

    async def prepare(self) -> None:
        """Put the server functions in place; raises :class:`MailboxesUnavailableError`."""
        try:
            await self._functions.load(self._client)
        except RedisError as error:
            raise _unavailable(error) from error

    async def _call(self, name: str, keys: Sequence[str], *args: str | int) -> Any:
        (reply,) = await self._run([self._functions.command(name, keys, *args)])
        return reply

    async def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands on one connection, in order; once more if the server has lost the functions."""
        try:
            async with self._turns:
                replies = await self._answers(commands)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise _unavailable(reply) from reply
        return replies

    async def _answers(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = await self._pipelined_again(commands)
        if any(map(is_missing, replies)):
            await self._functions.load(self._client)
            replies = await self._pipelined(commands)
        return replies

    async def _pipelined_again(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands; once more on a new connection if the pooled one had died: all of them may be repeated."""
        try:
            return await self._pipelined(commands)
        except RedisConnectionError:
            return await self._pipelined(commands)

    async def _pipelined(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies


def channel_of(address: Address) -> str:
    """Return the name of the channel on which wake-ups of a mailbox are published."""
    return _key(address, "wake-up")


def _key(address: Address, part: str) -> str:
    # The braces are the hash tag: everything of one mailbox shares a slot.
    return f"keypost:{{{address}}}:{part}"


def _waiting(address: Address) -> str:
    return _key(address, "waiting")


def _load(address: Address) -> str:
    return _key(address, "load")


def _contents(address: Address) -> tuple[str, ...]:
    """Return the keys of what waits, and of what is known of it."""
    return (_waiting(address), _load(address), _key(address, "shares"))


def _receiver(address: Address) -> str:
    return _key(address, "receiver")


def _seen(address: Address, name: MessageName) -> str:
    return _key(address, f"seen:{name.sender}:{name.message_id.hex()}")


def _append_keys(posting: Posting, address: Address) -> Sequence[str]:
    return (*_contents(address), _seen(address, posting.name))


def _accept_time(value: bytes) -> int:
    """Return the accept time of an entry; 0, so that clients find it too old, if somebody else wrote what is none."""
    return int(value) if value.isdigit() and len(value) <= TIME_DIGITS else 0


def _acceptance(reply: Sequence[Any]) -> Acceptance:
    outcome, accept_time, *heard = reply
    return Acceptance(Outcome(outcome.decode()), int(accept_time), any(heard))


def _check_replicated(reply: Sequence[int]) -> None:
    local, replicas = reply
    if local < 1 or replicas < 1:
        raise MailboxesUnavailableError("no replica has the message on its disk yet")


def _unavailable(error: Exception) -> MailboxesUnavailableError:
    return MailboxesUnavailableError(f"the mailbox server: {type(error).__name__}: {error}")
