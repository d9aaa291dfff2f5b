"""A service as somebody sees it who has nothing but the protos: bytes go in, a status comes out."""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from support.bad_input.places import nasty, places, put, serialised, size_at
from support.service import error_info

if TYPE_CHECKING:
    import io

    from google.protobuf.message import Message

    from support.bad_input.places import Place
    from support.bad_input.rules import Outcome, Rule

Call = Callable[[bytes], Awaitable[None]]
"""Makes a call with a serialised request; raises AioRpcError or RefusedWithinError."""
SECONDS = 20


class RefusedWithinError(Exception):
    """The call succeeded, and its response says that the request is refused: such as one of a batch."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def ignored(_message: Any, _path: str) -> None:
    """Sign nothing: nothing in the request is signed."""


def made(message: Message) -> Callable[[], Awaitable[Message]]:
    """Return what makes a request that needs nothing to be true."""

    async def make() -> Message:
        return message

    return make


@dataclass(frozen=True)
class Exchange:
    """One kind of request of one method.

    Attributes:
        call: Makes the call.
        good: Returns a request that is accepted, and was not sent yet.
        rules: What may stand where, by path; the path of an entry has ``[]``.
        seal: Signs a request anew after something was put at a place.
        extra: Values worth trying besides, by path.
        bounds: How many bytes may stand at a place, and what a request comes to that has more there, by path.
    """

    call: Call
    good: Callable[[], Awaitable[Message]]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    seal: Callable[[Any, str], None] = ignored
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, Outcome]] = field(default_factory=dict)

    @property
    def understood(self) -> set[Outcome]:
        """What a request may come to whose values are good."""
        return {outcome for rule in self.rules.values() for outcome in rule.outcomes}


@dataclass
class Surface:
    """The exchanges of a service, by method; after a blank, of which of its requests."""

    exchanges: Mapping[str, Exchange] = field(repr=False)
    output: io.StringIO = field(repr=False)
    _good: dict[str, Message] = field(default_factory=dict, repr=False)

    async def good(self, name: str) -> Message:
        """Return the good request of an exchange; the same one until a change of it was accepted."""
        if name not in self._good:
            self._good[name] = await self.exchanges[name].good()
        return self._good[name]

    async def places(self, name: str) -> list[Place]:
        """Return the places of a request."""
        return list(places(await self.good(name)))

    async def send(self, name: str, raw: bytes) -> Outcome:
        """Make a call and return what it comes to."""
        try:
            await self.exchanges[name].call(raw)
        except grpc.aio.AioRpcError as error:
            info = error_info(error)
            named = info.metadata.get("field")
            return f"{error.code().name}/{info.reason}" + (f"@{named}" if named else "")
        except RefusedWithinError as error:
            return error.outcome
        self._good.pop(name, None)
        return "OK"

    async def try_value(self, name: str, place: Place, value: Any) -> str | None:
        """Put a value at a place of the good request and send it; return what is wrong with the outcome."""
        exchange, message = self.exchanges[name], copy.deepcopy(await self.good(name))
        put(message, place.path, value)
        exchange.seal(message, place.path)
        raw = serialised(message, value)
        outcome = await self.send(name, raw)
        expected = next(
            (too_much for path, (most, too_much) in exchange.bounds.items() if size_at(message, path) > most), ""
        )
        if expected:
            wrong = None if outcome == expected else f"{outcome}, yet expected {expected}"
        else:
            wrong = exchange.rules[place.rule].judge(place, value, outcome)
        return wrong and f"{name}: {place.path} = {shown(value)}: {wrong}"

    async def try_nasty(self, name: str, place: Place) -> list[str]:
        """Put everything nasty at a place, one after the other; return what is wrong."""
        extra = self.exchanges[name].extra.get(place.rule, ())
        tried = [await self.try_value(name, place, value) for value in [*nasty(place), *extra]]
        return [wrong for wrong in tried if wrong]

    async def check_unharmed(self, name: str) -> None:
        """Check that the good request is served, and that nothing happened which the service did not foresee."""
        outcome = await self.send(name, (await self.good(name)).SerializeToString())
        assert outcome == "OK", outcome
        events = [json.loads(line) for line in self.output.getvalue().splitlines()]
        assert [line for line in events if line["event"] == "unforeseen"] == []
        assert [line for line in events if line.get("code") in {"INTERNAL", "UNKNOWN"}] == []


def shown(value: Any) -> str:
    """Return a value as a failure shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def unary(channel: grpc.aio.Channel, method: str, metadata: Callable[[], Any] = lambda: None) -> Call:
    """Return how a unary method is called."""
    stub: Any = channel.unary_unary(method)

    async def call(raw: bytes) -> None:
        await stub(raw, metadata=metadata(), timeout=SECONDS)

    return call


def watching(channel: grpc.aio.Channel, method: str) -> Call:
    """Return how a method is called that answers with a stream: it is accepted when the first answer is there."""
    stub: Any = channel.unary_stream(method)

    async def call(raw: bytes) -> None:
        stream = stub(raw, timeout=SECONDS)
        assert await stream.read() is not grpc.aio.EOF
        stream.cancel()

    return call


def conversing(channel: grpc.aio.Channel, method: str, first: Sequence[bytes], metadata: Callable[[], Any]) -> Call:
    """Return how a method of two streams is called: after the ``first`` requests; it is accepted when it ends well."""
    stub: Any = channel.stream_stream(method)

    async def call(raw: bytes) -> None:
        stream = stub(iter([*first, raw]), metadata=metadata(), timeout=SECONDS)
        while await stream.read() is not grpc.aio.EOF:
            pass

    return call
