"""The devices of a run, seen from the run: processes that are told what to do, and what they have said so far."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from keypost_services.embedded.processes import clean_environment
from keypost_services.embedded.stack import READY_SECONDS
from support.faults.checking import DeviceJournal
from support.faults.journal import GOT, SENT, Line, read_lines
from support.faults.parts import STOP_SECONDS
from support.previous import python_path

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.embedded.guard import Guard
    from support.faults.watching import Bell

LONGEST_LINE = 1024 * 1024


class CommandFailedError(Exception):
    """A device could not do what it was told, or its process ended."""


class DevicePart:
    """A device with its process.

    Args:
        name: What the run calls it.
        username: Whose it is.
        folder: What it keeps: the profile, the bundle, the journal; survives the process.
        guard: Ends it if the test is killed.
        bell: Rung whenever it says something.

    Attributes:
        code: Where the code of another version lies that the next process runs; None: this one.
        arguments: More arguments of its process.
    """

    def __init__(self, name: str, username: str, folder: Path, guard: Guard, bell: Bell) -> None:
        self.name = name
        self.username = username
        self.folder = folder
        self.log = folder / "log"
        self.code: Path | None = None
        self.arguments: tuple[str, ...] = ()
        self.traffic: dict[str, Any] | None = None
        self.sent_began: dict[str, float] = {}
        self.got_began: dict[str, float] = {}
        self.got_number: dict[tuple[str, str], int] = {}
        self._guard = guard
        self._bell = bell
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.running = asyncio.Event()
        self._open = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Line]] = {}
        self._commands = 0
        self._began: dict[tuple[str, int], float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The id of the process; 0 if there is none."""
        return self._process.pid if self._process else 0

    @property
    def died(self) -> bool:
        """Whether its process ended without having been told to."""
        return self._process is not None and self._process.returncode is not None

    def obituary(self) -> str:
        """Return how it ended."""
        return f"{self.name} ended with {self._process.returncode if self._process else 'nothing'}"

    @property
    def journal(self) -> DeviceJournal:
        """What it has noted."""
        return DeviceJournal(self.name, self.username, read_lines(self.folder / "journal"))

    async def start(self) -> None:
        """Start its process; return when its profile is open. If it had traffic, it goes on with it."""
        self._open = asyncio.Event()
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "support.faults.worker", str(self.folder), self.name, *self.arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=clean_environment(python_path(self.code)),
                limit=LONGEST_LINE,
                process_group=0,
            )
        self._guard.add(process.pid)
        self._process = process
        self._reader = asyncio.create_task(self._read(process))
        await self._wait_open()
        if self.traffic is not None:
            await self.do("traffic", **self.traffic)
        self.running.set()

    async def _wait_open(self) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._open.wait()
        except TimeoutError:
            raise CommandFailedError(f"{self.name} does not open its profile") from None
        if self.died:
            raise CommandFailedError(self.obituary())

    async def begin_traffic(self, **arguments: Any) -> None:
        """Let it send and receive, after each restart as well."""
        self.traffic = arguments
        await self.do("traffic", **arguments)

    async def do(self, what: str, seconds: float = READY_SECONDS, **arguments: Any) -> Any:
        """Have a command carried out; return its result.

        Raises:
            CommandFailedError: it failed, or took too long, or the process ended.
        """
        if self._process is None or self._process.stdin is None:
            raise CommandFailedError(f"{self.name} does not run")
        self._commands += 1
        answer = self._answers[self._commands] = asyncio.get_running_loop().create_future()
        line = {"command": self._commands, "do": what, **arguments}
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        try:
            async with asyncio.timeout(seconds):
                said = await answer
        except TimeoutError:
            raise CommandFailedError(f"{self.name} did not {what} within {seconds:.0f} s") from None
        if said["line"] == "failed":
            raise CommandFailedError(f"{self.name} could not {what}: {said['reason']}: {said['sentence']}")
        return said["result"]

    async def kill(self) -> None:
        """End its process by SIGKILL; return when it is gone."""
        self.running.clear()
        process, self._process = self._process, None
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            await self._read_out()

    async def stop(self) -> bool:
        """End its process in good order; return whether it did, and in time."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return True
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await process.wait()
        except TimeoutError:
            os.kill(process.pid, signal.SIGKILL)
            code = await process.wait()
        await self._read_out()
        return code == 0

    async def _read_out(self) -> None:
        if self._reader is not None:
            await self._reader

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for raw in process.stdout:
            if raw.endswith(b"\n"):  # else it was killed while it spoke
                self._hear(json.loads(raw))
                self._bell.ring()
        await process.wait()
        self._open.set()
        ended = {"line": "failed", "reason": "PROCESS_ENDED", "sentence": "its process ended"}
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(ended)
        self._answers.clear()
        self._bell.ring()

    def _hear(self, line: Line) -> None:
        kind = line["line"]
        if kind == "open":
            self._open.set()
        elif kind in ("done", "failed"):
            answer = self._answers.pop(line["command"], None)
            if answer is not None and not answer.done():
                answer.set_result(line)
        elif kind == SENT:
            self.sent_began[line["to"]] = line["began"]
        elif kind == GOT:
            self.got_began[line["device"]] = max(line["began"], self.got_began.get(line["device"], 0.0))
            flow = line["device"], line["to"]
            self.got_number[flow] = max(line["n"], self.got_number.get(flow, 0))
