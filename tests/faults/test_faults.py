"""Parts are killed, frozen and cut off from each other while devices send and receive; nothing is lost or doubled.

``KEYPOST_FAULTS`` says how many faults there are to be, and has all kinds drawn (``make test-faults``, and the gate);
without it a short selection is run. ``KEYPOST_FAULTS_STACK`` says on what (``make test-cluster``), and
``KEYPOST_FAULTS_SEED`` repeats what a run drew: how things interleave it cannot repeat.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from keypost_services.embedded.layout import EMBEDDED, SHAPES
from support.faults.faults import endless_faults, few_faults, few_faults_of_cluster
from support.faults.report import as_text
from support.faults.running import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FAULTS = "KEYPOST_FAULTS"
STACK = "KEYPOST_FAULTS_STACK"
SEED = "KEYPOST_FAULTS_SEED"


async def test_nothing_is_lost_doubled_or_reordered_whatever_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, shape = int(os.environ.get(FAULTS, "0")), SHAPES[os.environ.get(STACK, EMBEDDED.name)]
    seed = int(os.environ.get(SEED, random.SystemRandom().randrange(2**32)))

    def tell(line: str) -> None:
        if wanted or shape is not EMBEDDED:
            with capsys.disabled():
                print(line, flush=True)  # noqa: T201  # minutes pass

    tell(f"\nseed {seed}")
    few = few_faults_of_cluster if shape.cluster else few_faults
    draw = endless_faults if wanted else few
    outcome = await run(tmp_path, seed, draw, lambda faults, _seconds: 0 < wanted <= faults, tell, shape=shape)
    tell(as_text(outcome))
    # What was compared was something: no message for no fault would differ in nothing.
    assert len(outcome.endured) >= max(wanted, 10), as_text(outcome)
    assert outcome.counts["sends_returned"] > 20 * len(outcome.endured), as_text(outcome)
    assert outcome.counts["messages_received"] >= 3 * outcome.counts["sends_returned"], as_text(outcome)
