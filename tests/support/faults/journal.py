"""What each device noted of its own sending and receiving: written at once, read when all is over.

One JSON object a line. A line is on its way to the disk before the device goes on: what a process wrote survives the
process, so a device that is killed has noted everything up to some line, and half of one more at most.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Line = dict[str, Any]

OPENED = "opened"
"""A process of the device has opened its profile: ``address``."""
SEND = "send"
"""``send`` is about to be called: ``to``, ``n``, ``digest``."""
SENT = "sent"
"""``send`` returned: ``to``, ``n``, ``message_id``."""
RAISED = "raised"
"""``send`` raised: ``to``, ``n``, ``reason``, ``expected``."""
KEPT = "kept"
"""The client told that a message stays in the outbox: ``to``, ``message_id``."""
GOT = "got"
"""``receive`` handed a message out: what ``Got`` has."""
HANDLED = "handled"
"""The application has handled a message: ``sequence``."""
TOLD = "told"
"""The client told what should not happen: ``kind``, ``reason``, ``sentence``."""


class Journal:
    """Writes lines to a file, and to whoever listens.

    Args:
        path: The file; lines are appended.
        listener: A file descriptor that gets the lines as well.
    """

    def __init__(self, path: Path, listener: int | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._listener = listener
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            os.write(self._file, b"\n")  # half a line, of a process that was killed

    def write(self, line: str, /, **facts: Any) -> None:
        """Write one line."""
        data = json.dumps({"line": line, "time": time.monotonic(), **facts}).encode() + b"\n"
        os.write(self._file, data)
        if self._listener is not None:
            os.write(self._listener, data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a journal, without those that were not written to their end."""
    lines = []
    for raw in path.read_bytes().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(raw))
        except ValueError:
            continue
    return lines


@dataclass(frozen=True)
class Body:
    """The body of a message: says itself where it belongs, so that a foreign one is found out.

    Attributes:
        device: The name that the run has for the sending device.
        to: The recipient.
        number: Its number among the messages of this device to this recipient, from 1.
        began: When ``send`` was called (``time.monotonic``, one clock for all processes of a machine).
    """

    device: str
    to: str
    number: int
    began: float

    def write(self) -> bytes:
        """Return the bytes, of a length that only the message decides."""
        drawn = random.Random(f"{self.device} {self.to} {self.number}")
        size = drawn.choice((0, 100, 100, 800, 800, 800, 4_000, 4_000, 60_000))
        facts = {"device": self.device, "to": self.to, "number": self.number, "began": self.began}
        return json.dumps({**facts, "filler": drawn.randbytes(size // 2).hex()}).encode()

    @classmethod
    def read(cls, data: bytes) -> Body | None:
        """Return what a body says; None if it is none of a run's."""
        try:
            facts = json.loads(data)
            return cls(facts["device"], facts["to"], facts["number"], facts["began"])
        except (ValueError, KeyError, TypeError):
            return None


def digest_of(data: bytes) -> str:
    """Return what names the bytes of a body."""
    return hashlib.sha256(data).hexdigest()[:32]


def next_number(lines: Sequence[Line], to: str) -> int:
    """Return the number of the next message to a user."""
    return 1 + max((line["n"] for line in lines if line["line"] == SEND and line["to"] == to), default=0)
