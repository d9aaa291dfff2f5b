"""The people of the story, seen from the story: start a process, tell it what to do, hear what happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keypost.errors import KeypostError
from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_SECONDS = 60.0
STOP_SECONDS = 10.0
LONGEST_LINE = 32 * 1024 * 1024

Event = dict[str, Any]
Hear = Callable[[Event], None]


class PersonFailed(KeypostError):  # noqa: N818  # reads as what happened
    """A person of the story reported an error, or its process ended."""

    reason = "STORY_FAILED"


@dataclass(frozen=True)
class Home:
    """What a person has: a profile, the bundle, a passphrase, a place for the log."""

    profile: Path
    bundle: Path
    passphrase: str = field(repr=False)
    minimum_suite: str
    log: Path


class Person:
    """A person of the story in a process of its own.

    Args:
        name: The username.
        home: What the person has; survives the process.
        hear: Is called with the steps and the progress that the process reports.
    """

    def __init__(self, name: str, home: Home, hear: Hear) -> None:
        self.name = name
        self._home = home
        self._hear = hear
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answers: asyncio.Queue[Event] = asyncio.Queue()
        self._messages: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def pid(self) -> int:
        """The id of the process; 0 while the person is offline."""
        return self._process.pid if self._process else 0

    async def come_online(self) -> None:
        """Start the process; return when its profile is open.

        Raises:
            PersonFailed: it did not come up.
        """
        home = self._home
        with home.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "keypost_services.embedded.actor"),
                *(str(home.profile), str(home.bundle), home.minimum_suite),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=clean_environment({"KEYPOST_PASSPHRASE": home.passphrase}),
                limit=LONGEST_LINE,
                process_group=0 if os.name == "posix" else None,
            )
        self._reader = asyncio.create_task(self._read(self._process))
        await self._next(self._answers)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Sort what the process reports; at its end everybody who waits is told."""
        assert process.stdout is not None  # noqa: S101  # started with a pipe
        async for line in process.stdout:
            self._sort(json.loads(line))
        gone = {"event": "error", "reason": "PROCESS_ENDED", "sentence": f"the process ended; see {self._home.log}"}
        self._answers.put_nowait(gone)
        self._messages.put_nowait(gone)

    def _sort(self, event: Event) -> None:
        if event["event"] in {"result", "error"}:
            self._answers.put_nowait(event)
        elif event["event"] == "message":
            self._messages.put_nowait(event)
        elif event["event"] == "listening_failed":
            self._messages.put_nowait({**event, "event": "error"})
        else:
            self._hear(event)

    async def do(self, command: str, **arguments: str) -> Event:
        """Have a command carried out; return its result.

        Raises:
            PersonFailed: it failed.
        """
        if self._process is None or self._process.stdin is None:
            raise PersonFailed(f"{self.name} is offline")
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._next(self._answers)

    async def next_message(self) -> Event:
        """Return the next message that the person received.

        Raises:
            PersonFailed: none arrives in time.
        """
        return await self._next(self._messages)

    async def _next(self, queue: asyncio.Queue[Event]) -> Event:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                event = await queue.get()
        except TimeoutError:
            raise PersonFailed(f"{self.name} says nothing for {ANSWER_SECONDS:.0f} s") from None
        if event["event"] == "error":
            raise PersonFailed(f"{self.name}: {event['sentence']} ({event['reason']})")
        return event

    async def go_offline(self) -> int:
        """End the process in good order (kill it after a deadline); return its id."""
        process, reader = self._process, self._reader
        self._process = self._reader = None
        if process is None or process.stdin is None:
            return 0
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if reader is not None:
            await reader
        self._answers, self._messages = asyncio.Queue(), asyncio.Queue()
        return process.pid
