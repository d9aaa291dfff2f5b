"""The connection to delivery breaks, in every way in which it can: the application notices nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.transport import channels
from keypost.transport.retries import Backoff, Retries
from support.faults.proxy import Backend, Link
from support.simulation import failing, serving
from support.surfaces import asyncio_only

if TYPE_CHECKING:
    from support.simulation import Services
    from support.tls import TlsFiles

SCALE = 100
"""How much faster than in earnest a client finds out that nobody answers."""
PINGS = 4
"""More than gRPC sends by default while nothing is written."""
LONG = 20


class Watched(Link):
    """A link that tells when something was answered."""

    def __init__(self, *backends: Backend) -> None:
        super().__init__("bob>delivery", backends, on_change=self._note)
        self._answers = 0
        self._changed = asyncio.Event()

    def _note(self) -> None:
        self._answers += 1
        self._changed.set()

    async def answers(self, count: int) -> None:
        """Wait until so much has been answered from now on."""
        wanted = self._answers + count
        while self._answers < wanted:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
async def link(services: Services) -> AsyncIterator[Watched]:
    async with Watched(Backend("services", services.port)) as link:
        yield link


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks, as it does, whether the other end lives; in less time."""
    times = {"grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"}
    options = [(name, int(value) // SCALE if name in times else value) for name, value in channels.OPTIONS]
    monkeypatch.setattr(channels, "OPTIONS", tuple(options))
    assert sum(int(value) for name, value in options if name in times) <= 40_000 // SCALE


@pytest.fixture
async def bob(quick: None, open_client: Any, services: Services, tls: TlsFiles, link: Watched) -> Any:  # noqa: ARG001
    """Bob, who reaches delivery over the link."""
    bundle = services.bundle(tls)
    bundle.endpoints.delivery = link.target
    person = await open_client("bob", bundle=bundle)
    await person.client.enroll("bob")
    return person


@pytest.fixture
async def texts(bob: Any) -> AsyncIterator[asyncio.Queue[str]]:
    """What Bob's application is handed, in one iteration that nothing ends."""
    received: asyncio.Queue[str] = asyncio.Queue()

    async def receive() -> None:
        async with aclosing(bob.client.receive()) as messages:
            async for message in messages:
                received.put_nowait(message.text)

    iteration = asyncio.create_task(receive())
    yield received
    # Whoever waits for the next message ends when the client is closed.
    await bob.client.close()
    await iteration


Break = Callable[[Link], object]


@pytest.mark.parametrize(
    "break_it",
    [Link.cut, Link.freeze, lambda link: link.cut_after(700), lambda link: (link.refuse(), link.mend()), Link.garble],
    ids=["reset", "silent for ever", "reset in the middle", "refused", "garbled"],
)
async def test_a_connection_that_breaks_costs_nothing_but_time(
    alice: Any, texts: asyncio.Queue[str], link: Watched, break_it: Break
) -> None:
    async with asyncio.timeout(LONG):
        await alice.client.send("bob", "before")
        assert await texts.get() == "before"
        # Nothing but pings, and more of them than are sent by default.
        await link.answers(PINGS)
        break_it(link)
        for text in ("meanwhile", "after"):
            await alice.client.send("bob", text)
        assert [await texts.get() for _ in range(2)] == ["meanwhile", "after"]
    assert texts.empty()


async def test_what_is_sent_while_answers_are_garbled_is_stored_once(
    alice: Any, bob: Any, link: Watched, services: Services
) -> None:
    async def garble(_context: Any) -> None:
        link.garble()

    services.faults["Send"] = [garble]
    async with asyncio.timeout(LONG), aclosing(alice.client.receive()) as messages:
        await bob.client.send("alice", "one")
        await bob.client.send("alice", "two")
        assert [(await anext(messages)).text for _ in range(2)] == ["one", "two"]
    assert len(services.requests["Send"]) > 2, "the answer to the first one was lost"


@pytest.mark.parametrize("hold", [Link.stall, Link.mute], ids=["stalled", "muted"])
async def test_a_connection_that_stalls_is_given_up_and_what_waits_comes_once(
    alice: Any, texts: asyncio.Queue[str], link: Watched, hold: Break, services: Services
) -> None:
    async with asyncio.timeout(LONG):
        await alice.client.send("bob", "before")
        assert await texts.get() == "before"
        hold(link)
        await alice.client.send("bob", "meanwhile")
        streams = services.streams
        link.mend()
        assert await texts.get() == "meanwhile"
        await alice.client.send("bob", "after")
        assert await texts.get() == "after"
    assert texts.empty()
    assert services.streams >= streams


async def test_a_replica_that_is_drained_hands_over_to_another(
    alice: Any, bob: Any, services: Services, tls: TlsFiles, link: Watched
) -> None:
    async with asyncio.timeout(LONG), AsyncExitStack() as stack:
        await stack.enter_async_context(serving(services, tls))
        link.backends.insert(0, Backend("drained", services.port))
        async with aclosing(bob.client.receive()) as messages:
            await alice.client.send("bob", "before")
            assert (await anext(messages)).text == "before"
            assert "drained" in link.answered
            # Whoever is connected is told that the service goes away.
            await stack.aclose()
            await alice.client.send("bob", "after")
            assert (await anext(messages)).text == "after"


async def test_a_service_with_too_many_streams_is_asked_again_when_it_says(
    alice: Any, bob: Any, services: Services
) -> None:
    refused = failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after_ms=300)
    services.faults["Receive"] = [refused, refused]
    await alice.client.send("bob", "one")
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(LONG), aclosing(bob.client.receive()) as messages:
        assert (await anext(messages)).text == "one"
    assert asyncio.get_running_loop().time() - begun >= 0.6


@asyncio_only  # it counts what the client waits for, which is the same over threads
async def test_streams_that_end_as_soon_as_they_are_open_are_opened_ever_more_slowly(
    alice: Any, open_client: Any, services: Services
) -> None:
    bounds: list[float] = []

    def longest(_low: float, high: float) -> float:
        bounds.append(high)
        return 0.0

    bob = await open_client("bob", retries=Retries(backoff=Backoff(first=0.001, longest=0.02, uniform=longest)))
    await bob.client.enroll("bob")
    ends, last = failing(grpc.StatusCode.UNAVAILABLE, "STREAM_EXPIRED"), asyncio.Event()

    async def end_for_the_last_time(context: Any) -> None:
        last.set()
        await ends(context)

    services.faults["ReceiveOpens"] = [ends] * 7 + [end_for_the_last_time]
    async with asyncio.timeout(LONG), aclosing(bob.client.receive()) as messages:
        waiting = asyncio.ensure_future(anext(messages))
        await last.wait()
        await alice.client.send("bob", "one")
        assert (await waiting).text == "one"
    assert bounds[:6] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02]
