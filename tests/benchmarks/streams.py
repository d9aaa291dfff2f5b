"""From the sender's stream into the mailbox, out of it onto the receiver's stream, and acknowledged.

The baseline is the same commands from redis-py, in pipelines, on the same Valkey.

The envelopes are complete and were sealed beforehand: sealing is the client's work. The client is the wire alone, both
ends in one process; what it costs is in the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from base64 import b32encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

from benchmarks.cpu import measured
from benchmarks.people import Conversation, open_channel
from keypost.clock import DAY, system_clock
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from keypost.protocol.identifiers import Address
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.mailboxes import Claim, Durability, MailboxLimits, MessageName, Page, Posting
from keypost_services.delivery.store_valkey import ValkeyMailboxes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from benchmarks.cpu import Spent
    from benchmarks.people import Person
    from benchmarks.stack import BenchStack
    from keypost_services.delivery.functions import Call


Command = tuple[Any, ...]


@dataclass(frozen=True)
class Load:
    """How much goes through in one round.

    Attributes:
        pairs: How many senders, each with a receiver of his own.
        messages: How many messages each of them sends.
        batch: How many go into one request, or one pipeline.
    """

    pairs: int
    messages: int
    batch: int

    @property
    def operations(self) -> int:
        """How many messages there are altogether."""
        return self.pairs * self.messages


class _Pair:
    """A sender, a receiver, and their connections."""

    def __init__(self, stack: BenchStack, sender: Person, recipient: Person, exits: contextlib.AsyncExitStack) -> None:
        self.conversation = Conversation(stack.layout.realm, sender, recipient)
        self._stack = stack
        self._exits = exits
        self._sender = sender
        self._recipient = recipient

    async def open(self) -> None:
        """Connect both, and open the receiver's stream."""
        realm = self._stack.layout.realm
        self._sending, self._receiving = await self._stub(), await self._stub()
        self._metadata = self._sender.metadata(realm, "delivery")
        self._stream: Any = self._receiving.Receive(metadata=self._recipient.metadata(realm, "delivery"))
        await self._stream.write(pb.ReceiveRequest(start=pb.Start()))
        response = await self._stream.read()
        if not response.HasField("queue_empty"):
            raise ValueError(f"the mailbox of {self._recipient.username} is not empty")

    async def _stub(self) -> Any:
        channel = await self._exits.enter_async_context(open_channel(self._stack, "delivery"))
        await channel.channel_ready()
        return DeliveryServiceStub(channel)

    async def close(self) -> None:
        """End the receiver's stream."""
        self._stream.cancel()

    def requests(self, load: Load) -> list[pb.SendStreamRequest]:
        """Return what is sent in a round, in batches."""
        envelopes = self.conversation.envelopes(load.messages)
        firsts = range(0, load.messages, load.batch)
        return [pb.SendStreamRequest(envelopes=envelopes[first : first + load.batch]) for first in firsts]

    async def send(self, requests: Sequence[pb.SendStreamRequest]) -> None:
        """Send all on one stream, and return when all are stored."""
        call = self._sending.SendStream(iter(requests), metadata=self._metadata)
        async for response in call:
            for result in response.results:
                if not result.HasField("stored"):
                    raise ValueError(f"not stored: {result}")

    async def receive(self, number: int) -> None:
        """Receive and acknowledge so many."""
        while number > 0:
            response = await self._stream.read()
            names = [delivery.delivery_id for delivery in response.batch.deliveries]
            await self._stream.write(pb.ReceiveRequest(acknowledge=pb.Acknowledge(delivery_ids=names)))
            number -= len(names)


class Streams:
    """Rounds of messages through delivery. To be entered once; people are senders and receivers by turns."""

    def __init__(self, stack: BenchStack, people: Sequence[Person], load: Load) -> None:
        self._stack = stack
        self._load = load
        self._exits = contextlib.AsyncExitStack()
        self._pairs = [_Pair(stack, people[2 * n], people[2 * n + 1], self._exits) for n in range(load.pairs)]
        self._redis: Any = redis.asyncio.Redis.from_url(stack.redis_url)

    async def __aenter__(self) -> Callable[[], Awaitable[Spent]]:
        await self._exits.enter_async_context(self._redis)
        for pair in self._pairs:
            await pair.open()
        return self.round

    async def __aexit__(self, *_: object) -> None:
        for pair in self._pairs:
            await pair.close()
        await self._exits.aclose()

    async def round(self) -> Spent:
        """Send, receive and acknowledge as much as the load says."""
        load = self._load
        prepared = [pair.requests(load) for pair in self._pairs]
        with measured(load.operations, self._stack.pids("delivery", "directory", "valkey")) as spent:
            async with asyncio.TaskGroup() as tasks:
                for pair, requests in zip(self._pairs, prepared, strict=True):
                    tasks.create_task(pair.send(requests))
                    tasks.create_task(pair.receive(load.messages))
            await self._acknowledged()
        return spent

    async def _acknowledged(self) -> None:
        """Return when nothing waits any more."""
        keys = [f"keypost:{{{pair.conversation.recipient.pair.address}}}:waiting" for pair in self._pairs]
        while any([await self._redis.xlen(key) for key in keys]):  # noqa: ASYNC110  # in the server, not in here
            await asyncio.sleep(0.001)


class Pipelines:
    """The baseline: the same server functions from redis-py alone, batch by batch in one pipeline each.

    What it appends is as large as what delivery appends for such a message, and as many go into one call.
    """

    def __init__(self, stack: BenchStack, load: Load, envelope: bytes) -> None:
        self._stack = stack
        self._load = load
        self._envelope = envelope
        self._caught = _Caught()
        limits, functions = MailboxLimits(1_000_000, 2**32), FunctionLibrary()
        nobody: Any = None
        servers: Any = self._caught
        self._mailboxes = ValkeyMailboxes(servers, nobody, functions, limits, Durability.MEMORY)
        self._client = redis.Redis.from_url(stack.redis_url)
        self._addresses = [_address(f"base{n:04}", n) for n in range(load.pairs)]
        self._after = dict.fromkeys(self._addresses, "0-0")

    async def round(self) -> Spent:
        """Append, read and acknowledge as much as the load says."""
        load = self._load
        appends = [
            (address, self._append([self._posting(address) for _ in range(load.batch)]))
            for _ in range(load.messages // load.batch)
            for address in self._addresses
        ]
        together = max(1, 256 // load.batch)
        groups = [appends[first : first + together] for first in range(0, len(appends), together)]
        with measured(load.operations, self._stack.pids("valkey")) as spent:
            await asyncio.to_thread(self._run_all, groups)
        return spent

    def _run_all(self, groups: list[list[tuple[Address, Command]]]) -> None:
        for group in groups:
            self._run([append for _, append in group])
            found = self._run([self._read(address) for address, _ in group])
            acknowledgements = []
            for (address, _), (_verdict, _expired, *entries) in zip(group, found, strict=True):
                if len(entries) != self._load.batch:
                    raise ValueError(f"{len(entries)} envelopes were read, not {self._load.batch}")
                self._after[address] = entries[-1][0].decode()
                acknowledgements.append(self._acknowledge(address, [entry[0].decode() for entry in entries]))
            self._run(acknowledgements)

    def _run(self, commands: list[Command]) -> list[Any]:
        pipeline: Any
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute()
        return replies

    def _posting(self, address: Address) -> Posting:
        name = MessageName(_address("bench", 0), os.urandom(16))
        digest = hashlib.sha256(name.message_id).digest()
        return Posting(name, digest, system_clock(), 30 * DAY, {address: self._envelope})

    def _append(self, postings: Sequence[Posting]) -> Command:
        return self._caught.by(self._mailboxes.append_all(postings))

    def _read(self, address: Address) -> Command:
        claim, page = Claim(address, "bench", 1), Page(self._load.batch)
        return self._caught.by(self._mailboxes.read(claim, self._after[address], page, 0))

    def _acknowledge(self, address: Address, names: Sequence[str]) -> Command:
        return self._caught.by(self._mailboxes.acknowledge(address, names))


class _CaughtError(Exception):
    """Ends a method of the adapter when its command is known."""


class _Caught:
    """Servers that note what they are to run, and run nothing."""

    serving: Sequence[Any] = ()

    def __init__(self) -> None:
        self._calls: Sequence[Call] = ()

    async def run(self, calls: Sequence[Call], _replica_timeout: int | None = None) -> list[Any]:
        self._calls = calls
        raise _CaughtError

    def by(self, method: Coroutine[Any, Any, Any]) -> Command:
        """Return the command that a method of the adapter runs."""
        with contextlib.suppress(_CaughtError):
            method.send(None)
        (call,) = self._calls
        return call.command


def _address(username: str, number: int) -> Address:
    return Address(username, b32encode(number.to_bytes(10, "big")).decode().lower())
