"""What Keypost's services do a second, beside what could be done at most: ``make bench`` (docs/operations.md, "Speed").

Every row is measured beside its baseline in the same run, by turns. The processes are those of a deployment, with TLS,
and a real Valkey; clients are the wire alone. Written to ``tests/benchmarks/results/latest.json``; ``--json`` prints
that, ``--quick`` measures so little that the figures mean nothing, ``--page`` measures nothing and writes the table of
docs/operations.md from it. A row that fails, or does not end, is left out and said at the end; the others are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import platform
import sys
import tempfile
import traceback
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record_signing
from benchmarks.calls import Calls, batches, echoes, look_ups, sends
from benchmarks.people import Conversation, enroll
from benchmarks.report import lines, write_page
from benchmarks.rows import Row, by_turns
from benchmarks.stack import BenchStack
from benchmarks.streams import Load, Pipelines, Streams
from keypost.clock import system_clock
from keypost_services.delivery.mailboxes import Durability

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.people import Person

RESULTS = Path(__file__).parent / "results" / "latest.json"
DURABILITIES = (Durability.FSYNC, Durability.PROCESS, Durability.MEMORY)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: Of each row and of its baseline.
        one_pair: What one pair sends in a round.
        many_pairs: What many pairs send.
        calls: Unary calls in a round.
        users: How many there are; the small directory keeps about a hundred.
        durabilities: With which of them what is stored is measured.
    """

    rounds: int
    one_pair: Load
    many_pairs: Load
    calls: int
    users: int
    durabilities: Sequence[Durability]


ROW_SECONDS = 120.0
"""So long a row may take, all its rounds together."""
ATTEMPTS = 2
FULL = Scale(5, Load(1, 4_096, 256), Load(100, 64, 64), 2_000, 300, DURABILITIES)
QUICK = Scale(1, Load(1, 64, 32), Load(4, 16, 8), 32, 110, DURABILITIES[:1])


@dataclass(frozen=True)
class Bench:
    """Measures the rows, one after the other."""

    stack: BenchStack
    people: Sequence[Person]
    scale: Scale
    found: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    async def measure(self) -> None:
        """Measure all rows."""
        await self._stored(self.scale.durabilities[0])
        await self._looked_up()
        for durability in self.scale.durabilities[1:]:
            await asyncio.to_thread(self.stack.promise, durability)
            await self._stored(durability)

    async def _stored(self, durability: Durability) -> None:
        for name, load, aim in (("one pair", self.scale.one_pair, 0.5), (None, self.scale.many_pairs, 0.4)):
            row = Row(name or f"{load.pairs} pairs", "messages", durability.value, aim, "redis-py, pipelines")
            await self._add(row, functools.partial(self._streamed, load))
        send = Row("one unary send", "calls", durability.value, 0.5, "")
        await self._add(
            send, lambda row: self._beside_echo(row, sends(self.stack, self._conversation(), self.scale.calls))
        )

    def _conversation(self) -> Conversation:
        return Conversation(self.stack.layout.realm, self.people[-2], self.people[-1])

    async def _streamed(self, load: Load, row: Row) -> Row:
        envelope = self._conversation().envelopes(1)[0].SerializeToString()
        async with Streams(self.stack, self.people, load) as ours:
            return await by_turns(row, self.scale.rounds, ours, Pipelines(self.stack, load, envelope).round)

    async def _add(self, row: Row, measuring: Callable[[Row], Awaitable[Row]]) -> None:
        """Add a row once it is measured: at the second attempt, where others keep the disk busy for seconds."""
        for _ in range(ATTEMPTS):
            print(f"{row.name} {row.durability}", file=sys.stderr, flush=True)
            try:
                async with asyncio.timeout(ROW_SECONDS):
                    self.found.append(await measuring(replace(row, ours=[], baseline=[])))
            except Exception:  # noqa: BLE001  # whatever it is, the other rows say what they say
                traceback.print_exc()
                await asyncio.to_thread(self.stack.forget)
            else:
                return
        self.failed.append(f"{row.name} {row.durability}".strip())

    async def _looked_up(self) -> None:
        stack, people, calls = self.stack, self.people, self.scale.calls
        for tier, aim, cached in (("process memory", 0.75, True), ("Redis", 0.4, False)):
            row = Row(f"one look-up, from {tier}", "calls", "", aim, "")
            await self._add(row, functools.partial(self._one_by_one, cached))
        # A username beside an echo: of the size of one look-up, not of a hundred.
        hundred = Row("100 usernames a call, from process memory", "usernames", "", 30, "")
        await self._add(
            hundred,
            lambda row: self._beside_echo(row, batches(stack, people, max(4, calls // 20)), of_one=True),
        )

    async def _one_by_one(self, cached: bool, row: Row) -> Row:  # noqa: FBT001  # bound beforehand
        return await self._beside_echo(row, look_ups(self.stack, self.people, self.scale.calls, cached=cached))

    async def _beside_echo(self, row: Row, opening: AbstractAsyncContextManager[Calls], *, of_one: bool = False) -> Row:
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(opening)
            sizes = await ours.sizes(of_one=of_one)
            row.baseline_name = f"echo, {sizes[0]} and {sizes[1]} bytes"
            echo = await stack.enter_async_context(echoes(self.stack, sizes, self.scale.calls))
            return await by_turns(row, self.scale.rounds, ours.round, echo.round)


async def measure(scale: Scale) -> dict[str, Any]:
    """Return everything that was measured, as it is written."""
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="keypost-bench-") as folder,
        BenchStack(Path(folder) / "stack", scale.durabilities[0]) as stack,
    ):
        bench = Bench(stack, await enroll(stack, scale.users), scale)
        await bench.measure()
    return {
        "time": system_clock(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": [round(load, 1), round(os.getloadavg()[1], 1)],
        "rows": [row.to_json() for row in bench.found],
        "failed": bench.failed,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measures what the services do a second.")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quick", action="store_true", help="measure next to nothing: whether it runs at all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the report")
    parser.add_argument("--page", action="store_true", help="write the table of docs/operations.md from the report")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(json.loads(arguments.output.read_text()))
        return
    report = asyncio.run(measure(QUICK if arguments.quick else FULL))
    rounds = record_signing.Rounds(1) if arguments.quick else record_signing.Rounds()
    report["record_signing"] = asyncio.run(record_signing.measure(rounds))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if arguments.json else "\n".join(lines(report)))
    if report["failed"]:
        sys.exit(f"not measured: {', '.join(report['failed'])}")


if __name__ == "__main__":
    main()
