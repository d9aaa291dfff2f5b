"""Acknowledgements are taken as fast as they come, and forgotten in as few steps as the mailbox allows."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from keypost_services.delivery.receiving import MOST_WAITING, Device, Receiving
from keypost_services.runtime.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Sequence


class Mailboxes:
    """An empty mailbox that forgets when it is let."""

    def __init__(self) -> None:
        self.forgotten: list[list[str]] = []
        self.go_on = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watch(self, _address: object) -> AsyncIterator[Any]:
        yield SimpleNamespace(wait=asyncio.Event().wait)

    async def claim_number(self, _address: object) -> int:
        return 1

    async def claim(self, _claim: object) -> str:
        return "0-0"

    async def release(self, _claim: object) -> None: ...

    async def read(self, *_: object) -> Sequence[object]:
        return ()

    async def acknowledge(self, _address: object, delivery_ids: Collection[str]) -> int:
        self.forgotten.append(list(delivery_ids))
        await self.go_on.wait()
        return len(delivery_ids)


class Bench:
    def __init__(self) -> None:
        self.mailboxes = Mailboxes()
        self.pulled = 0
        self.counted: list[int] = []

    async def acknowledgements(self, batches: Sequence[list[str] | Exception]) -> AsyncIterator[Sequence[str]]:
        for batch in batches:
            self.pulled += 1
            if isinstance(batch, Exception):
                raise batch
            yield batch

    async def serve(self, *batches: list[str] | Exception) -> None:
        outlet: Any = SimpleNamespace(queue_empty=self._said, batch=self._said)
        address: Any = "bob/1"
        device = Device(address, 256, self.acknowledgements(batches), outlet)
        await self._receiving().receive(device)

    async def _said(self, *_: object) -> None: ...

    def _receiving(self) -> Receiving:
        @contextlib.contextmanager
        def nothing() -> Iterator[None]:
            yield

        async def reliable() -> Any:
            return SimpleNamespace(constants=SimpleNamespace(mailbox_age=1))

        metrics: Any = SimpleNamespace(
            stream_opened=lambda: None, stream_ended=lambda _why: None, acknowledged=self.counted.append
        )
        trust: Any = SimpleNamespace(reliable=reliable)
        mailboxes: Any = self.mailboxes
        return Receiving(
            mailboxes,
            trust,
            clock=lambda: 1_000,
            ids=lambda: "stream",
            jitter=lambda: 0.5,
            metrics=metrics,
            on_left=lambda _: None,
        )


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_what_comes_in_while_the_mailbox_forgets_is_forgotten_in_few_steps(bench: Bench) -> None:
    many = [[f"{number}-1", f"{number}-2"] for number in range(1, 16)]
    serving = asyncio.ensure_future(bench.serve(*many))
    await turns()
    assert len(bench.mailboxes.forgotten) == 1
    bench.mailboxes.go_on.set()
    await serving
    assert [one for batch in bench.mailboxes.forgotten for one in batch] == [one for batch in many for one in batch]
    assert len(bench.mailboxes.forgotten) <= 5
    assert sum(bench.counted) == 30


async def test_a_mailbox_that_is_slow_to_forget_is_not_overrun(bench: Bench) -> None:
    many = [[f"{number}-1"] for number in range(1, 50)]
    serving = asyncio.ensure_future(bench.serve(*many))
    await turns()
    assert bench.pulled <= 2 * MOST_WAITING + 1, "some are being forgotten, some wait, one is in hand"
    bench.mailboxes.go_on.set()
    await serving
    assert [one for batch in bench.mailboxes.forgotten for one in batch] == [one for (one,) in many]


async def test_what_came_before_an_error_is_forgotten_first(bench: Bench) -> None:
    bench.mailboxes.go_on.set()
    wrong = ServiceError(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "no delivery_id")
    with pytest.raises(ServiceError, match="no delivery_id"):
        await bench.serve(["1-1"], [], ["2-1"], wrong)
    assert [one for batch in bench.mailboxes.forgotten for one in batch] == ["1-1", "2-1"]


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)
