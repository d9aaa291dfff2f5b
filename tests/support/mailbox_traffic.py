"""Senders and receivers at the level of the mailboxes: they go on whatever fails, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keypost.protocol.identifiers import Address
from keypost_services.delivery.mailboxes import (
    BEGINNING,
    Claim,
    Mailboxes,
    MailboxesUnavailableError,
    Outcome,
    Page,
    Posting,
)
from support.mailboxes import new_name, posting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REPEAT_SECONDS = 0.05
LOOK_SECONDS = 2.0
BATCH = 5


def people(count: int) -> list[Address]:
    """Return so many addresses, whose mailboxes are all over the slots."""
    return [Address(f"user{number}", "bbbbbbbbbbbbbbbb") for number in range(count)]


@dataclass
class Conversation:
    """What one sender sends to one mailbox, and what comes of it.

    Attributes:
        address: The mailbox.
        answered: The messages that the sender was told are stored, in the order in which he sent them.
        received: The messages that came, each once, in the order of their first coming.
        redelivered: How many came again.
        failures: How often a call failed.
    """

    address: Address
    answered: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    redelivered: int = 0
    failures: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, mailboxes: Mailboxes) -> None:
        """Send batches for ever; what is not answered is sent again, before anything else."""
        number = 0
        while True:
            bodies = [f"{self.address.username}:{number + offset}".encode() for offset in range(BATCH)]
            number += BATCH
            postings = [posting(body, self.address, name=new_name()) for body in bodies]
            while not await self._sent(mailboxes, postings):  # noqa: ASYNC110  # it sends again
                await asyncio.sleep(REPEAT_SECONDS)
            self.answered += bodies

    async def _sent(self, mailboxes: Mailboxes, postings: list[Posting]) -> bool:
        for result in await mailboxes.append_all(postings):
            if isinstance(result, MailboxesUnavailableError):
                self._fail()
                return False
            assert result[self.address].outcome in (Outcome.APPENDED, Outcome.DUPLICATE)
        return True

    async def receive(self, mailboxes: Mailboxes) -> None:
        """Receive for ever, as a stream does that is opened again whenever it fails."""
        stream = 0
        while True:
            stream += 1
            try:
                await self._stream(mailboxes, f"stream-{stream}")
            except MailboxesUnavailableError:
                self._fail()
                await asyncio.sleep(REPEAT_SECONDS)

    async def _stream(self, mailboxes: Mailboxes, name: str) -> None:
        claim = Claim(self.address, name, await mailboxes.claim_number(self.address))
        async with mailboxes.watch(self.address) as wake_ups:
            await mailboxes.claim(claim)
            after = BEGINNING
            while True:
                found = await mailboxes.read(claim, after, Page(256), 0)
                if not found:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await wake_ups.wait()
                    continue
                for waiting in found:
                    self._take(waiting.envelope)
                after = found[-1].delivery_id
                await mailboxes.acknowledge(self.address, [waiting.delivery_id for waiting in found])

    def _take(self, body: bytes) -> None:
        if body in self.received:
            self.redelivered += 1
        else:
            self.received.append(body)
        self._came.set()

    def _fail(self) -> None:
        self.failures += 1
        self._failed.set()

    async def wait_for_failure(self) -> None:
        """Return when a call has failed, from now on."""
        self._failed.clear()
        await self._failed.wait()

    async def wait_for_more(self, count: int = 20) -> None:
        """Return when so many more messages have come."""
        wanted = len(self.received) + count
        while len(self.received) < wanted:
            self._came.clear()
            await self._came.wait()

    async def wait_for_all(self) -> None:
        """Return when everything has come that was answered; nobody sends any more."""
        while not set(self.answered) <= set(self.received):
            self._came.clear()
            await self._came.wait()

    def check(self) -> None:
        """Check that everything answered came, in its order, and nothing that was not sent."""
        count = len(self.answered)
        assert self.received[:count] == self.answered
        left = [f"{self.address.username}:{count + offset}".encode() for offset in range(BATCH)]
        assert self.received[count:] == left[: len(self.received) - count], "at most what was under way at the end"


@contextlib.asynccontextmanager
async def traffic(senders: Mailboxes, receivers: Mailboxes, count: int) -> AsyncIterator[list[Conversation]]:
    """Let so many conversations go on while the context lasts; at its end everything that was answered must come."""
    conversations = [Conversation(address) for address in people(count)]
    sending = [asyncio.create_task(one.send(senders)) for one in conversations]
    receiving = [asyncio.create_task(one.receive(receivers)) for one in conversations]
    try:
        await asyncio.gather(*(one.wait_for_more(1) for one in conversations))
        yield conversations
        await _end(sending)
        await asyncio.gather(*(one.wait_for_all() for one in conversations))
    finally:
        await _end([*sending, *receiving])
    for one in conversations:
        one.check()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
