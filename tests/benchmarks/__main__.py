"""What Keypost's services do a second, beside what could be done at most: ``make bench`` (docs/operations.md, "Speed").

Every row is measured beside its baseline in the same run, by turns. The processes are those of a deployment, with TLS,
and a real Valkey; clients are the wire alone. Written to ``tests/benchmarks/results/latest.json``; ``--json`` prints
that, ``--quick`` measures so little that the figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record_signing
from benchmarks.calls import Calls, batches, echoes, look_ups, sends
from benchmarks.people import Conversation, enroll
from benchmarks.report import lines
from benchmarks.rows import Row, by_turns
from benchmarks.stack import BenchStack
from benchmarks.streams import Load, Pipelines, Streams
from keypost.clock import system_clock
from keypost_services.delivery.mailboxes import Durability

if TYPE_CHECKING:
    from collections.abc import Sequence
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


FULL = Scale(5, Load(1, 8_192, 256), Load(100, 128, 64), 2_000, 300, DURABILITIES)
QUICK = Scale(1, Load(1, 64, 32), Load(4, 16, 8), 32, 110, DURABILITIES[:1])


@dataclass(frozen=True)
class Bench:
    """Measures the rows, one after the other."""

    stack: BenchStack
    people: Sequence[Person]
    scale: Scale

    async def rows(self) -> list[Row]:
        """Return all rows."""
        found = await self._stored(self.scale.durabilities[0]) + await self._looked_up()
        for durability in self.scale.durabilities[1:]:
            await asyncio.to_thread(self.stack.promise, durability)
            found += await self._stored(durability)
        return found

    async def _stored(self, durability: Durability) -> list[Row]:
        conversation = Conversation(self.stack.layout.realm, self.people[-2], self.people[-1])
        envelope = conversation.envelopes(1)[0].SerializeToString()
        found = []
        for name, load, aim in (("one pair", self.scale.one_pair, 0.5), (None, self.scale.many_pairs, 0.4)):
            row = Row(name or f"{load.pairs} pairs", "messages", durability.value, aim, "redis-py, pipelines")
            async with Streams(self.stack, self.people, load) as ours:
                pipelines = Pipelines(self.stack, load, envelope)
                found.append(await by_turns(row, self.scale.rounds, ours, pipelines.round))
        row = Row("one unary send", "calls", durability.value, 0.5, "")
        found.append(await self._beside_echo(row, sends(self.stack, conversation, self.scale.calls)))
        return found

    async def _looked_up(self) -> list[Row]:
        stack, people, calls = self.stack, self.people, self.scale.calls
        process, redis, hundred = (
            Row("one look-up, from process memory", "calls", "", 0.75, ""),
            Row("one look-up, from Redis", "calls", "", 0.4, ""),
            Row("100 usernames a call, from process memory", "usernames", "", 30, ""),
        )
        return [
            await self._beside_echo(process, look_ups(stack, people, calls, cached=True)),
            await self._beside_echo(redis, look_ups(stack, people, calls, cached=False)),
            # A username beside an echo: of the size of one look-up, not of a hundred.
            await self._beside_echo(hundred, batches(stack, people, max(4, calls // 20)), of_one=True),
        ]

    async def _beside_echo(self, row: Row, opening: AbstractAsyncContextManager[Calls], *, of_one: bool = False) -> Row:
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(opening)
            sizes = await ours.sizes(of_one=of_one)
            row.baseline_name = f"echo, {sizes[0]} and {sizes[1]} bytes"
            echo = await stack.enter_async_context(echoes(self.stack, sizes, self.scale.calls))
            return await by_turns(row, self.scale.rounds, ours.round, echo.round)


async def measure(scale: Scale) -> dict[str, Any]:
    """Return everything that was measured, as it is written."""
    with (
        tempfile.TemporaryDirectory(prefix="keypost-bench-") as folder,
        BenchStack(Path(folder) / "stack", scale.durabilities[0]) as stack,
    ):
        rows = await Bench(stack, await enroll(stack, scale.users), scale).rows()
    return {
        "time": system_clock(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": [row.to_json() for row in rows],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measures what the services do a second.")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quick", action="store_true", help="measure next to nothing: whether it runs at all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the report")
    arguments = parser.parse_args()
    report = asyncio.run(measure(QUICK if arguments.quick else FULL))
    rounds = 1 if arguments.quick else record_signing.ROUNDS
    report["record_signing"] = asyncio.run(record_signing.measure(rounds=rounds))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if arguments.json else "\n".join(lines(report)))


if __name__ == "__main__":
    main()
