"""What memory and CPU each process takes, for requests and limits: ``PYTHONPATH=tests python -m benchmarks.sizing``.

At rest, with many devices connected, and at its peak (the most that the operating system has seen) under a load that
keeps it busy; and what CPU it takes for a thousand of what it does. ``--quick`` shows only that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.calls import look_ups
from benchmarks.cpu import cpu_seconds
from benchmarks.people import enroll, open_channel
from benchmarks.stack import BenchStack
from benchmarks.streams import Load, Streams
from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from support.faults.parts import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.people import Person

PROCESSES = ("ca", "directory", "delivery", "valkey")
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
        users: How many are enrolled, each with a connection and a stream of its own to delivery.
        rounds: Of each load.
        load: What is sent in one.
        calls: Look-ups in one.
    """

    users: int
    rounds: int
    load: Load
    calls: int


FULL = Scale(300, 5, Load(50, 128, 64), 2_000)
QUICK = Scale(8, 1, Load(2, 8, 4), 16)


@dataclass
class Taken:
    """What one process took.

    Attributes:
        resident: Bytes, after each stage.
        peak: Bytes at most.
        cpu: CPU seconds for a thousand of what was done, by what it was.
    """

    resident: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    cpu: dict[str, float] = field(default_factory=dict)


async def measure(stack: BenchStack, scale: Scale) -> dict[str, Taken]:
    """Return what each process took."""
    taken = {name: Taken() for name in PROCESSES}
    pids = stack.pids(*PROCESSES)

    def look(stage: str) -> None:
        for name, pid in pids.items():
            taken[name].resident[stage] = resident_bytes(pid)
            taken[name].peak = peak_bytes(pid)

    look("at rest")
    began = {name: cpu_seconds(pid) for name, pid in pids.items()}
    people = await enroll(stack, scale.users)
    _note(taken, pids, began, "enrolments", scale.users)
    async with AsyncExitStack() as exits:
        spared = 2 * scale.load.pairs
        for person in people[spared:]:
            await exits.enter_async_context(_connected(stack, person))
        look(f"{len(people) - spared} connected")
        began = {name: cpu_seconds(pid) for name, pid in pids.items()}
        round_of_messages = await exits.enter_async_context(Streams(stack, people, scale.load))
        for _ in range(scale.rounds):
            await round_of_messages()
        _note(taken, pids, began, "messages", scale.rounds * scale.load.operations)
        look("messages")
        began = {name: cpu_seconds(pid) for name, pid in pids.items()}
        calls = await exits.enter_async_context(look_ups(stack, people, scale.calls, cached=True))
        for _ in range(scale.rounds):
            await calls.round()
        _note(taken, pids, began, "look-ups", scale.rounds * scale.calls)
        look("look-ups")
    return taken


class _connected:  # noqa: N801  # a context manager, used as one
    """A device that holds a stream, and is sent nothing."""

    def __init__(self, stack: BenchStack, person: Person) -> None:
        self._channel = open_channel(stack, "delivery")
        self._metadata = person.metadata(stack.layout.realm, "delivery")
        self._stream: Any = None

    async def __aenter__(self) -> None:
        self._stream = DeliveryServiceStub(self._channel).Receive(metadata=self._metadata)
        await self._stream.write(pb.ReceiveRequest(start=pb.Start()))
        await self._stream.read()

    async def __aexit__(self, *_: object) -> None:
        self._stream.cancel()
        await self._channel.close()


def peak_bytes(pid: int) -> int:
    """Return how much memory a process has held at most."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _note(taken: dict[str, Taken], pids: dict[str, int], began: dict[str, float], what: str, operations: int) -> None:
    for name, pid in pids.items():
        taken[name].cpu[what] = (cpu_seconds(pid) - began[name]) / operations * 1_000


def lines(taken: dict[str, Taken]) -> Sequence[str]:
    """Return a table for people, as pages show it."""
    stages = list(next(iter(taken.values())).resident)
    loads = list(next(iter(taken.values())).cpu)
    head = ["", *(f"MiB {stage}" for stage in stages), "MiB at most", *(f"CPU ms for 1,000 {load}" for load in loads)]
    rows = [
        [name, *(f"{each.resident[stage] / MEBIBYTE:.0f}" for stage in stages), f"{each.peak / MEBIBYTE:.0f}"]
        + [f"{1_000 * each.cpu[load]:.0f}" for load in loads]
        for name, each in taken.items()
    ]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure next to nothing: whether it runs at all")
    scale = QUICK if parser.parse_args().quick else FULL
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="keypost-sizing-") as folder,
        BenchStack(Path(folder) / "stack") as stack,
    ):
        taken = asyncio.run(measure(stack, scale))
    print("\n".join(lines(taken)))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
