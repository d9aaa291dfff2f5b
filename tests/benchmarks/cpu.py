"""How much of the processors each process has used: what a figure costs, whoever else is busy on the machine."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLIENT = "client"
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and all its threads have used."""
    # The second field may hold anything, spaces too; behind its bracket the third begins.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Spent:
    """What a piece of work has taken.

    Attributes:
        operations: How many were done.
        seconds: On the clock.
        cpu: CPU seconds, by process.
    """

    operations: int
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


@contextlib.contextmanager
def measured(operations: int, processes: Mapping[str, int]) -> Iterator[Spent]:
    """Measure the block, in which so many operations are done.

    Args:
        operations: How many.
        processes: The ids of the processes that do them, besides this one.
    """
    spent = Spent(operations)
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    own, started = time.process_time(), time.perf_counter()
    yield spent
    spent.seconds = time.perf_counter() - started
    spent.cpu = {name: cpu_seconds(pid) - before[name] for name, pid in processes.items()}
    spent.cpu[CLIENT] = time.process_time() - own
