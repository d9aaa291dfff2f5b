"""What is measured, beside what it is measured against.

Rounds of both go by turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.cpu import Spent


@dataclass
class Row:
    """One figure.

    Attributes:
        name: What is measured.
        unit: What is counted.
        durability: What the mailbox server promised meanwhile; empty where nothing is stored.
        aim: What the rate is to be, in baselines; 0: no aim.
        baseline_name: What the baseline does.
        ours: The rounds.
        baseline: The baseline's, one a round.
    """

    name: str
    unit: str
    durability: str
    aim: float
    baseline_name: str
    ours: list[Spent] = field(default_factory=list)
    baseline: list[Spent] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many baselines the rate is: the middle one of the rounds."""
        return statistics.median(
            ours.rate / baseline.rate for ours, baseline in zip(self.ours, self.baseline, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the row as it is written."""
        return {
            "name": self.name,
            "unit": self.unit,
            "durability": self.durability,
            "per_second": round(_rate(self.ours), 1),
            "baseline": self.baseline_name,
            "baseline_per_second": round(_rate(self.baseline), 1),
            "ratio": round(self.ratio, 3),
            "aim": self.aim,
            "rounds": len(self.ours),
            "operations_a_round": self.ours[0].operations,
            "cpu_seconds_per_1000": _cpu(self.ours),
            "baseline_cpu_seconds_per_1000": _cpu(self.baseline),
        }


def _rate(rounds: list[Spent]) -> float:
    return statistics.median(spent.rate for spent in rounds)


def _cpu(rounds: list[Spent]) -> dict[str, float]:
    """Return the CPU seconds of 1,000 operations, by process."""
    operations = sum(spent.operations for spent in rounds)
    return {name: round(sum(spent.cpu[name] for spent in rounds) / operations * 1_000, 4) for name in rounds[0].cpu}


async def by_turns(
    row: Row, rounds: int, ours: Callable[[], Awaitable[Spent]], baseline: Callable[[], Awaitable[Spent]]
) -> Row:
    """Fill a row: a round of each to warm up, which does not count, then so many by turns."""
    await baseline()
    await ours()
    for _ in range(rounds):
        row.baseline.append(await baseline())
        row.ours.append(await ours())
    return row
