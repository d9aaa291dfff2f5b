"""What a run showed: as JSON, and as tables for people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from support.faults.parts import Memory
    from support.faults.running import Outcome

MEBIBYTE = 1024 * 1024


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return everything that a run showed; a fault without ``recovery`` is one that it did not recover from."""
    return {
        "failure": outcome.failure,
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
        "faults": [
            {**asdict(each.fault), "began": round(each.began, 1), "recovery": _rounded(each.recovery)}
            for each in outcome.endured
        ],
        "faults_by_kind": _by_kind(outcome),
        "messages": outcome.counts,
        "longest_recovery": max((round(each.recovery or 0.0, 2) for each in outcome.endured), default=0.0),
        "memory": [asdict(each) for each in outcome.memory],
        "differences": [str(difference) for difference in outcome.differences],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _by_kind(outcome: Outcome) -> dict[str, dict[str, float]]:
    recoveries: dict[str, list[float]] = defaultdict(list)
    for each in outcome.endured:
        recoveries[str(each.fault.kind)].append(each.recovery or 0.0)
    return {
        kind: {"faults": len(times), "longest_recovery": round(max(times), 2)}
        for kind, times in sorted(recoveries.items())
    }


def as_text(outcome: Outcome) -> str:
    """Return the tables: faults by kind, messages, memory of each process that lived longest."""
    kinds = [(kind, facts["faults"], f"{facts['longest_recovery']:.1f}") for kind, facts in _by_kind(outcome).items()]
    messages = [(name.replace("_", " "), number) for name, number in outcome.counts.items()]
    memory = [
        (each.part, f"{each.first / MEBIBYTE:.0f}", f"{each.last / MEBIBYTE:.0f}", f"{each.seconds:.0f}")
        for each in _longest_lived(outcome.memory)
    ]
    return "\n\n".join(
        (
            f"seed {outcome.seed}, {outcome.seconds:.0f} s, {len(outcome.differences)} differences",
            _table(("fault", "times", "longest recovery, s"), kinds),
            _table(("messages", "number"), messages),
            _table(("process", "MiB, first", "MiB, last", "after s"), memory),
        )
    )


def _longest_lived(memory: Iterable[Memory]) -> Iterable[Memory]:
    """Return for each part the process that was watched longest: growth shows in it."""
    longest: dict[str, Memory] = {}
    for each in memory:
        if each.part not in longest or each.seconds > longest[each.part].seconds:
            longest[each.part] = each
    return longest.values()


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [tuple(map(str, row)) for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
