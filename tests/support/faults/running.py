"""A run: traffic, one fault after the other, and at the end the comparison of all journals."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keypost_services.embedded.layout import EMBEDDED
from keypost_services.embedded.valkey_cluster import is_settled
from support.faults.asking import Asking
from support.faults.checking import Difference, count, find_differences
from support.faults.devices import CommandFailedError
from support.faults.faults import Fault, Faults, Places
from support.faults.inflicting import Inflicting
from support.faults.parts import MemoryWatch
from support.faults.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keypost_services.embedded.layout import Shape
    from support.faults.devices import DevicePart
    from support.faults.parts import Memory
    from support.faults.proxy import Link
    from support.faults.stack import Stack

RECOVERY_SECONDS = 90.0
"""How long a mended part may take until it is used again: generous, for machines under load."""
LAST_MESSAGES_SECONDS = 120.0
PAUSE_SECONDS = 0.4
"""About how long a device thinks between two messages.

Whatever a fault meets is under way until it is over, and the processes that start have the machine meanwhile.
"""
TAIL_LINES = 12

Draw = Callable[[random.Random, Places], Iterator[Faults]]
Enough = Callable[[int, float], bool]
"""Told how many faults there were and how many seconds have passed, says whether that is enough."""
Tell = Callable[[str], None]
Used = tuple["Link", "str | None"]
"""A way, and which part must answer on it; None: any."""


@dataclass(frozen=True)
class Endured:
    """A fault that is over.

    Attributes:
        fault: The fault.
        began: Seconds since the run began.
        recovery: Seconds from its end until all traffic flowed again, through the mended part as well;
            None if they have not.
    """

    fault: Fault
    began: float
    recovery: float | None


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        seed: From which it was drawn.
        seconds: How long it took.
        endured: The faults, in order.
        differences: What was found.
        counts: How much there was.
        memory: What each process held.
        failure: Why the run failed; None: it did not.
    """

    seed: int
    seconds: float = 0.0
    endured: list[Endured] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    memory: list[Memory] = field(default_factory=list)
    failure: str | None = None


class RunFailedError(Exception):
    """Something was lost, doubled, reordered or foreign; or a part did not start, or not come back.

    Args:
        story: What whoever reads of it needs to find out why.
        outcome: What the run gave until then.
    """

    def __init__(self, story: str, outcome: Outcome) -> None:
        super().__init__(story)
        self.outcome = outcome


async def run(
    folder: Path,
    seed: int,
    draw: Draw,
    enough: Enough,
    tell: Tell = lambda _line: None,
    *,
    shape: Shape = EMBEDDED,
) -> Outcome:
    """Run faults until there were enough, and compare what is left with what must be.

    Args:
        folder: Where everything lies; empty.
        seed: Everything that is drawn is drawn from it.
        draw: Draws the faults.
        enough: Told how many faults there were and how many seconds have passed, says whether that is enough.
        tell: Gets a line about each fault.
        shape: What the data are kept in, and how many CAs there are.

    Raises:
        RunFailedError: with the seed, the faults, what was found, how the logs end, and the outcome until then.
    """
    outcome = Outcome(seed)
    try:
        async with running_stack(folder, shape) as stack:
            await _run(stack, outcome, draw, enough, tell)
    except RunFailedError:
        raise
    except Exception as error:  # the stack did not start
        outcome.failure = f"{type(error).__name__}: {error}"
        raise RunFailedError(f"seed {seed}\n{outcome.failure}", outcome) from error
    return outcome


async def _run(stack: Stack, outcome: Outcome, draw: Draw, enough: Enough, tell: Tell) -> None:
    one_run = Run(stack, random.Random(outcome.seed), outcome, tell)
    try:
        await one_run.begin()
        await one_run.faults(draw, enough)
        await one_run.finish()
    except Exception as error:
        one_run.note()
        outcome.failure = f"{type(error).__name__}: {error}"
        raise RunFailedError(_story(stack, outcome, outcome.failure), outcome) from error
    if outcome.differences:
        outcome.failure = "\n".join(map(str, outcome.differences))
        raise RunFailedError(_story(stack, outcome, outcome.failure), outcome)


class Run:
    """One run over a stack that serves.

    Args:
        stack: The stack.
        drawn: Draws what is drawn.
        outcome: Where it is noted what happened.
        tell: Gets a line about each fault.
        copies: Whether what a device sends must also be at the other devices of its user.
    """

    def __init__(
        self, stack: Stack, drawn: random.Random, outcome: Outcome, tell: Tell, *, copies: bool = True
    ) -> None:
        self._stack = stack
        self._random = drawn
        self._outcome = outcome
        self._copies = copies
        self._tell = tell
        self._began = time.monotonic()
        self._memory = MemoryWatch()
        self._asking = Asking(stack, drawn)
        self._inflicting = Inflicting(stack, self._asking)

    async def begin(self) -> None:
        """Have all devices send and receive; return when all traffic flows."""
        for number, device in enumerate(self._stack.devices.values()):
            peers = sorted({other.username for other in self._stack.devices.values()} - {device.username})
            # Both ways of calling send and of handling messages.
            at_once, handling = (1, "set") if number % 2 else (8, "advance")
            await device.begin_traffic(peers=peers, pause=PAUSE_SECONDS, at_once=at_once, handling=handling)
        await self.flowing("the first messages", time.monotonic())

    async def faults(self, draw: Draw, enough: Enough) -> None:
        """Have one fault happen after the other."""
        self._look_at_memory()
        for faults in draw(self._random, self._stack.places):
            if enough(len(self._outcome.endured), time.monotonic() - self._began):
                break
            await self._endure(faults)

    async def _endure(self, faults: Faults) -> None:
        self._look_at_memory()
        began = time.monotonic() - self._began
        self._tell(f"{began:7.1f} s  {' and '.join(map(str, faults))}")
        earlier = len(self._outcome.endured)
        self._outcome.endured += [Endured(fault, began, None) for fault in faults]
        # Half of the time a part is needed for more than messages while it is away.
        needs = [need for fault in faults for need in self._asking.needs(fault) if self._random.random() < 1 / 2]
        needing = [asyncio.create_task(need()) for need in needs]
        await asyncio.gather(*map(self._inflicting.inflict, faults))
        mended = time.monotonic()
        await asyncio.gather(*needing)
        await asyncio.gather(*(self._come_back(fault, mended) for fault in faults))
        recovery = time.monotonic() - mended
        self._outcome.endured[earlier:] = [Endured(fault, began, recovery) for fault in faults]
        self._tell(f"            flows again after {recovery:.1f} s")

    async def _come_back(self, fault: Fault, mended: float) -> None:
        """Wait until traffic flows again, through the part that was at fault as well."""
        used = self._used(fault)
        await self._asking.ask(fault, lambda: bool(_unused(used, mended)))
        if (cluster := self._stack.cluster) is not None:
            # With a replica that is not in step the next fault would be the second at once.
            await asyncio.to_thread(
                cluster.wait_until, lambda: all(is_settled(node, len(cluster.nodes)) for node in cluster.nodes)
            )
        await self.flowing(str(fault), mended, used)

    def _used(self, fault: Fault) -> list[Used]:
        """Return the ways on which something must be answered once the part is mended, and by which part."""
        if ">" in fault.target:
            return [(link, None) for link in self._inflicting.links(fault)]
        name = fault.target
        if name in self._stack.devices:
            return [(self._stack.links[f"{name}>delivery"], None)]
        return [(link, name) for link in self._stack.links.values() if link.backends[0].name == name]

    async def flowing(self, what: str, since: float, used: Sequence[Used] = ()) -> None:
        """Wait until messages that were sent since then have gone from every device to every other user's devices."""

        def missing() -> list[str]:
            if died := self._stack.died():
                raise RunFailedError("\n".join(died), self._outcome)
            return _unused(used, since) + list(self._flows_missing(since))

        await self._stack.bell.until(what, missing, RECOVERY_SECONDS)

    def _flows_missing(self, since: float) -> Iterator[str]:
        devices = list(self._stack.devices.values())
        for sender in devices:
            for to in sorted({other.username for other in devices} - {sender.username}):
                if sender.sent_began.get(to, 0.0) <= since:
                    yield f"a send of {sender.name} to {to}"
            for receiver in devices:
                is_for = self._copies or receiver.username != sender.username
                if receiver is not sender and is_for and receiver.got_began.get(sender.name, 0.0) <= since:
                    yield f"a message of {sender.name} at {receiver.name}"

    def _look_at_memory(self) -> None:
        for part in self._stack.parts.values():
            self._memory.look(part)

    async def finish(self) -> None:
        """End the traffic, wait for the last messages, end all processes in good order, and compare the journals."""
        devices = list(self._stack.devices.values())
        last = await asyncio.gather(*(device.do("pause", seconds=LAST_MESSAGES_SECONDS) for device in devices))
        numbers = list(zip(devices, last, strict=True))
        await self._stack.bell.until("the last messages", lambda: list(self._not_there(numbers)), LAST_MESSAGES_SECONDS)
        self._look_at_memory()
        await asyncio.gather(*(device.do("finish", seconds=LAST_MESSAGES_SECONDS) for device in devices))
        await self._stop_all()
        self._compare()

    def _not_there(self, numbers: Sequence[tuple[DevicePart, dict[str, int]]]) -> Iterator[str]:
        """Yield where the last messages have not come yet, nor the copies of them."""
        for sender, last in numbers:
            for to, number in last.items():
                users = (to, sender.username) if self._copies else (to,)
                for receiver in self._stack.devices.values():
                    is_for = receiver.username in users and receiver is not sender
                    if is_for and receiver.got_number.get((sender.name, to), 0) < number:
                        yield f"message {number} of {sender.name} to {to} at {receiver.name}"

    async def _stop_all(self) -> None:
        for part in reversed(list(self._stack.parts.values())):
            if not await part.stop():
                raise CommandFailedError(f"{part.name} did not end in good order")

    def _compare(self) -> None:
        journals = [device.journal for device in self._stack.devices.values()]
        self._outcome.differences = find_differences(journals, copies=self._copies)
        self.note()

    def note(self) -> None:
        """Note how much there has been, and for how long."""
        outcome = self._outcome
        outcome.counts = count([device.journal for device in self._stack.devices.values()])
        outcome.memory = list(self._memory.noted.values())
        outcome.seconds = time.monotonic() - self._began


def _unused(used: Sequence[Used], since: float) -> list[str]:
    return [
        f"an answer on {link.name}" + (f" by {backend}" if backend else "")
        for link, backend in used
        if not link.answered_since(since, backend)
    ]


def _story(stack: Stack, outcome: Outcome, why: str) -> str:
    """Return what whoever reads of a failure needs to find out why."""
    faults = "\n".join(
        f"  {each.began:7.1f} s  {each.fault}" + (f", recovered in {each.recovery:.1f} s" if each.recovery else "")
        for each in outcome.endured
    )
    logs = "\n".join(f"{part.name}: {part.log}\n{_tail(part.log)}" for part in stack.parts.values())
    return f"seed {outcome.seed}\n{why}\n\nfaults:\n{faults}\n\nlogs:\n{logs}\n\n{why}\nseed {outcome.seed}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    lines = [line for line in lines if '"level": "info"' not in line]
    return "\n".join(f"  {line[:400]}" for line in lines[-TAIL_LINES:])
