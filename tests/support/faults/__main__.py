"""``make soak``: a run of so many minutes, with its report; exits with 1 if it failed, and the report says why."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from keypost_services.embedded.layout import EMBEDDED, SHAPES
from support.faults.faults import endless_faults
from support.faults.report import as_json, as_text
from support.faults.running import RunFailedError, run


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--stack", choices=sorted(SHAPES), default=EMBEDDED.name, help="what the data are kept in")
    parser.add_argument("--report", type=Path, default=Path("soak.json"), help="where the report goes, as JSON")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="keypost-soak-") as folder:
        try:
            outcome = asyncio.run(
                run(
                    Path(folder),
                    options.seed,
                    endless_faults,
                    lambda _faults, seconds: seconds >= options.minutes * 60,
                    lambda line: print(line, flush=True),
                    shape=SHAPES[options.stack],
                )
            )
        except RunFailedError as error:
            outcome = error.outcome
            print(error, file=sys.stderr)
    options.report.write_text(json.dumps(as_json(outcome), indent=2) + "\n")
    print(f"\n{as_text(outcome)}\n\nreport: {options.report}")
    return 0 if outcome.failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
