"""Unary calls, so many under way on one connection: a send, a look-up, a look-up of a hundred users.

The baseline is an empty echo over TLS whose messages have the same sizes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from benchmarks.cpu import measured
from benchmarks.echo import METHOD, echo_request
from benchmarks.people import open_channel
from benchmarks.stack import SMALL_DIRECTORY
from keypost.delivery.v1 import delivery_service_pb2 as delivery_pb
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from keypost.directory.v1 import directory_service_pb2 as directory_pb
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from google.protobuf.message import Message

    from benchmarks.cpu import Spent
    from benchmarks.people import Conversation, Person
    from benchmarks.stack import BenchStack

UNDER_WAY = 16
USERS = 100
"""As many as BatchGetKeyInfo takes."""


class Calls:
    """Rounds of one unary call.

    Args:
        stack: What runs.
        processes: Which of its processes do the work.
        call: Makes one call.
        requests: Makes the requests of a round.
        number: How many calls there are in a round.
        operations: How many operations a call is.
    """

    def __init__(
        self,
        stack: BenchStack,
        processes: Sequence[str],
        call: Callable[[Any], Awaitable[Any]],
        requests: Callable[[int], Sequence[Any]],
        number: int,
        *,
        operations: int = 1,
    ) -> None:
        self._stack = stack
        self._processes = processes
        self._call = call
        self._requests = requests
        self._number = number
        self._operations = operations

    async def round(self) -> Spent:
        """Make the calls, so many at a time."""
        requests = self._requests(self._number)
        with measured(self._number * self._operations, self._stack.pids(*self._processes)) as spent:
            await _run(self._call, requests)
        return spent

    async def sizes(self, *, of_one: bool = False) -> tuple[int, int]:
        """Return how large a request and its response are, or what falls to one operation of them."""
        (request,) = self._requests(1)
        response = await self._call(request)
        share = self._operations if of_one else 1
        return len(request.SerializeToString()) // share, len(response.SerializeToString()) // share


async def _run(call: Callable[[Any], Awaitable[Any]], requests: Iterable[Any]) -> None:
    waiting = iter(requests)

    async def worker() -> None:
        for request in waiting:
            await call(request)

    await asyncio.gather(*(worker() for _ in range(UNDER_WAY)))


@contextlib.asynccontextmanager
async def echoes(stack: BenchStack, sizes: tuple[int, int], number: int) -> AsyncIterator[Calls]:
    """Yield the baseline for calls of these sizes."""
    async with open_channel(stack, "echo") as channel:
        request = echo_request(*sizes)
        call: Any = channel.unary_unary(METHOD)
        yield Calls(stack, ["echo"], call, lambda many: [request] * many, number)


@contextlib.asynccontextmanager
async def sends(stack: BenchStack, conversation: Conversation, number: int) -> AsyncIterator[Calls]:
    """Yield Sends of whole envelopes, each stored when it is answered."""

    def requests(many: int) -> Sequence[Message]:
        return [delivery_pb.SendRequest(envelope=one) for one in conversation.envelopes(many)]

    async with open_channel(stack, "delivery") as channel:
        stub, metadata = DeliveryServiceStub(channel), conversation.sender.metadata(stack.layout.realm, "delivery")

        async def call(request: Any) -> Any:
            response = await stub.Send(request, metadata=metadata)
            if not response.HasField("stored"):
                raise ValueError(f"not stored: {response}")
            return response

        yield Calls(stack, ["delivery", "valkey"], call, requests, number)


@contextlib.asynccontextmanager
async def look_ups(stack: BenchStack, people: Sequence[Person], number: int, *, cached: bool) -> AsyncIterator[Calls]:
    """Yield look-ups of one user each, in turn: from the memory of the process, or from Redis."""
    names = itertools.cycle([person.username for person in people[: USERS if cached else None]])
    name = "directory" if cached else SMALL_DIRECTORY

    def requests(many: int) -> Sequence[Message]:
        return [directory_pb.GetKeyInfoRequest(username=username) for username in itertools.islice(names, many)]

    async with _directory(stack, people[0], name) as (stub, metadata):

        async def call(request: Any) -> Any:
            return await stub.GetKeyInfo(request, metadata=metadata)

        yield Calls(stack, [name, "valkey"], call, requests, number)


@contextlib.asynccontextmanager
async def batches(stack: BenchStack, people: Sequence[Person], number: int) -> AsyncIterator[Calls]:
    """Yield look-ups of a hundred users each, from the memory of the process."""
    request = directory_pb.BatchGetKeyInfoRequest(usernames=[person.username for person in people[:USERS]])
    async with _directory(stack, people[0], "directory") as (stub, metadata):

        async def call(asked: Any) -> Any:
            return await stub.BatchGetKeyInfo(asked, metadata=metadata)

        yield Calls(stack, ["directory", "valkey"], call, lambda many: [request] * many, number, operations=USERS)


@contextlib.asynccontextmanager
async def _directory(stack: BenchStack, caller: Person, name: str) -> AsyncIterator[tuple[Any, Any]]:
    async with open_channel(stack, name) as channel:
        yield DirectoryServiceStub(channel), caller.metadata(stack.layout.realm, "directory")
