"""The CA's steps of a renewal, as the CA itself reports them: in its log."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEPS_OF_THE_CA = frozenset({5, 6, 7})
OF_THE_LOG = ("event", "list", "step", "title", "actor", "time", "service", "level", "caller", "peer", "request_id")
"""How the names begin that every line has, or every line of a call: no facts of the step."""


class CaLog:
    """Reads steps from the CA's log, each once, in order.

    Args:
        path: The log, one JSON object a line.
        process: Returns the id of the CA's process.
    """

    def __init__(self, path: Path, process: Callable[[], int]) -> None:
        self._path = path
        self._process = process
        self._position = 0

    def new_steps(self) -> Iterator[dict[str, Any]]:
        """Yield the steps logged since the last call, as events of the story."""
        with self._path.open("rb") as log:
            log.seek(self._position)
            for line in log:
                if not line.endswith(b"\n"):  # still being written
                    return
                self._position += len(line)
                if step := self._read(line):
                    yield step

    def _read(self, line: bytes) -> dict[str, Any] | None:
        try:
            logged = json.loads(line)
        except ValueError:  # a library's own line
            return None
        if not isinstance(logged, dict) or logged.get("event") != "step":
            return None
        facts = {name: value for name, value in logged.items() if not name.startswith(OF_THE_LOG)}
        time = round(datetime.fromisoformat(logged["time"]).timestamp() * 1000)
        named = {name: logged[name] for name in ("list", "step", "title", "actor")}
        return {"event": "step", "process": self._process(), **named, "time": time, "facts": facts}
