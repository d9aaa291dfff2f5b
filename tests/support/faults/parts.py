"""The processes of a run: started, killed, frozen, watched. A part has one address for life, and many processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psycopg
import redis

from keypost_services.embedded.layout import service_of
from keypost_services.embedded.processes import Process, StackFailedError
from keypost_services.embedded.stack import READY_SECONDS
from keypost_services.embedded.valkey import find_server
from support.previous import python_path, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keypost_services.embedded.guard import Guard
    from keypost_services.embedded.postgres import Postgres
    from keypost_services.embedded.valkey_cluster import ClusterNode

STOP_SECONDS = 20.0
Launch = Callable[["Path | None"], Process]
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Part(Protocol):
    """What a run can do to a process.

    Attributes:
        name: What the run calls it.
        log: Where its output goes.
    """

    name: str
    log: Path

    @property
    def pid(self) -> int:
        """The id of the process; 0 if there is none."""
        ...

    async def start(self) -> None:
        """Start it; return when it serves."""
        ...

    async def kill(self) -> None:
        """End it by SIGKILL; return when it is gone."""
        ...

    async def stop(self) -> bool:
        """End it in good order; return whether it did."""
        ...

    @property
    def died(self) -> bool:
        """Whether its process ended without having been told to."""
        ...

    def obituary(self) -> str:
        """Return how it ended."""
        ...


def freeze(part: Part) -> None:
    """Let a part hang, with the processes that it has started: its connections stand, nothing is answered."""
    for pid in _family(part.pid):
        os.kill(pid, signal.SIGSTOP)


def thaw(part: Part) -> None:
    """End a freeze."""
    for pid in _family(part.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _family(pid: int) -> list[int]:
    """Return a process and its children: PostgreSQL has one for each connection."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *map(int, children.read_text().split() if children.exists() else ())]


class Server:
    """A part that is started somehow and says somehow that it is ready.

    Args:
        name: What the run calls it.
        launch: Starts a process; gets where the code of another version lies that it is to run, or None.
        ready: Returns whether it serves.
        log: Where its output goes.
        guard: Ends it if the test is killed.

    Attributes:
        code: Where the code of another version lies that the next process runs; None: this one.
        kept: Whether ``keep_running`` stands in for whoever runs services: it is no fault then that a process ends.
    """

    def __init__(self, name: str, launch: Launch, ready: Callable[[], bool], log: Path, guard: Guard) -> None:
        self.name = name
        self.log = log
        self.code: Path | None = None
        self.kept = False
        self._changing = asyncio.Lock()
        self._launch = launch
        self._ready = ready
        self._guard = guard
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """The id of the process; 0 if there is none."""
        return self._process.pid if self._process else 0

    @property
    def died(self) -> bool:
        """Whether its process ended without having been told to, and nobody starts another."""
        return not self.kept and self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._process is not None and not self._process.is_running()

    def obituary(self) -> str:
        """Return how it ended."""
        return self._process.obituary() if self._process else f"{self.name} does not run"

    async def keep_running(self) -> None:
        """Start another process whenever one ends by itself, as whoever runs services does, while it is ``kept``."""
        while self.kept:
            await _end_of(self.pid)
            async with self._changing:
                if self.kept and self._has_ended:
                    await self._start()

    async def start(self) -> None:
        """Start it, again and again where it ends by itself; return when it serves.

        Raises:
            StackFailedError: it does not serve in time.
        """
        async with self._changing:
            await self._start()

    async def _start(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            process = self._process = await asyncio.to_thread(self._launch, self.code)
            self._guard.add(process.pid)
            try:
                await asyncio.to_thread(process.wait_until, self._ready, READY_SECONDS)
            except StackFailedError:
                # What it needs may be at fault as well: whoever runs services starts them again.
                if process.is_running() or time.monotonic() > deadline:
                    raise
            else:
                return

    async def kill(self) -> None:
        """End it by SIGKILL; return when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.kill(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait_stopped, STOP_SECONDS)

    async def stop(self) -> bool:
        """End it in good order; return whether it did, and in time."""
        async with self._changing:
            process, self._process = self._process, None
        if process is None:
            return True
        process.ask_to_stop()
        return await asyncio.to_thread(process.wait_stopped, STOP_SECONDS)


async def _end_of(pid: int) -> None:
    """Return when a process of this one's has ended."""
    descriptor = os.pidfd_open(pid)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def service_part(name: str, log: Path, environment: Mapping[str, str], guard: Guard) -> Server:
    """Return a service as it is run in production: by its entry point, with settings from the environment."""
    service = service_of(name)
    ready_file = Path(environment[f"KEYPOST_{service.upper()}_READY_FILE"])

    def launch(code: Path | None) -> Process:
        ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"keypost_services.{service}", "serve"]
        known = environment if code is None else settings(environment)
        process = Process(name, command, log, {**known, **python_path(code)})
        process.start()
        return process

    return Server(name, launch, ready_file.exists, log, guard)


def valkey_part(name: str, folder: Path, port: int, guard: Guard) -> Server:
    """Return a Valkey that answers once what it was told is on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "valkey.log"
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    command = [str(find_server()), *(part for setting, value in settings.items() for part in (f"--{setting}", value))]

    def launch(_code: Path | None) -> Process:
        process = Process(name, command, log)
        process.start()
        return process

    return Server(name, launch, lambda: _answers(port), log, guard)


def postgres_part(name: str, postgres: Postgres, guard: Guard) -> Server:
    """Return the CA's PostgreSQL, as it is run on one machine."""
    return Server(
        name, lambda _code: postgres.start(), lambda: _takes(postgres), postgres.folder / "postgres.log", guard
    )


def node_part(name: str, node: ClusterNode, guard: Guard) -> Server:
    """Return a node of the Valkey Cluster that keeps the mailboxes."""
    return Server(name, lambda _code: node.start(), node.answers, node.folder / "valkey.log", guard)


def _answers(port: int) -> bool:
    with redis.Redis(host="127.0.0.1", port=port, socket_timeout=1, socket_connect_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:  # not listening yet, or still reading its file
            return False


def _takes(postgres: Postgres) -> bool:
    try:
        psycopg.connect(postgres.url, connect_timeout=2).close()
    except psycopg.OperationalError:  # not listening yet, or still replaying its log
        return False
    return True


@dataclass
class Memory:
    """How much one process held: soon after its start, and when it was last looked at.

    Attributes:
        part: Whose process.
        pid: Which.
        first: Bytes.
        last: Bytes.
        seconds: The time between.
    """

    part: str
    pid: int
    first: int
    last: int = 0
    seconds: float = 0.0


class MemoryWatch:
    """Notes how much memory each process holds."""

    def __init__(self) -> None:
        self.noted: dict[int, Memory] = {}
        self._begun: dict[int, float] = {}

    def look(self, part: Part) -> None:
        """Note what a part's process holds now."""
        resident = resident_bytes(part.pid)
        if not resident:
            return
        noted = self.noted.setdefault(part.pid, Memory(part.name, part.pid, resident))
        begun = self._begun.setdefault(part.pid, time.monotonic())
        noted.last, noted.seconds = resident, time.monotonic() - begun


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds; 0 if there is none."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
