"""The whole of Keypost on one machine: its servers and the three services, each a process of its own.

The services listen on the loopback address with TLS, everything lies in one folder, and nothing outlives ``stop``.
"""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from keypost.clock import system_clock
from keypost_services.embedded import certificates
from keypost_services.embedded.guard import Guard
from keypost_services.embedded.layout import ADMINISTRATOR, SERVICES, Layout, Ports, service_of, settings_of
from keypost_services.embedded.ports import choose_ports
from keypost_services.embedded.processes import Process, StackFailedError
from keypost_services.embedded.realm import prepare_realm
from keypost_services.embedded.servers import Servers
from keypost_services.runtime.lock import FileLock, LockHeldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

READY_SECONDS = 90.0
STOP_SECONDS = 10.0
ATTEMPTS = 3
PORT_TAKEN = ("cannot listen", "already in use")


@dataclass(frozen=True)
class Part:
    """One part that runs: its name, its process id, and what it serves where."""

    name: str
    pid: int
    serves: str


class Stack:
    """Starts, watches and stops the parts.

    Args:
        layout: The folder with everything, the realm, the suites that it allows, and what the data are kept in.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._died = threading.Event()
        self._obituary: str | None = None
        self._lock = FileLock(layout.folder / "lock")
        self._guard = Guard()
        self._servers = Servers(layout)
        self._processes: list[Process] = []
        self._ports: dict[str, Ports] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def parts(self) -> list[Part]:
        """What runs, in the order in which it was started."""
        return [Part(process.name, process.pid, self._serves(process.name)) for process in self._processes]

    def pid_of(self, name: str) -> int:
        """Return the process id of a part that runs; 0 if there is none of that name."""
        return next((process.pid for process in self._processes if process.name == name), 0)

    def _serves(self, name: str) -> str:
        if name not in self._ports:
            return self._servers.what_serves(name)
        ports = self._ports[name]
        return f"127.0.0.1:{ports['public']} TLS, 127.0.0.1:{ports['internal']} mutual TLS"

    def start(self) -> None:
        """Start everything, all at once; return when everything serves.

        Raises:
            StackFailedError: a part did not start; what had started is stopped again.
        """
        for last in range(ATTEMPTS - 1, -1, -1):
            try:
                self._start()
            except BaseException as error:
                self.stop()
                if last and isinstance(error, StackFailedError) and any(words in str(error) for words in PORT_TAKEN):
                    continue
                raise
            return

    def _start(self) -> None:
        layout = self.layout
        self._died.clear()
        self._obituary = None
        layout.log_folder.mkdir(parents=True, exist_ok=True)
        self._lock_folder()
        self._guard.start()
        for server in self._servers.start():
            self._take(server)
        self._ports = choose_ports(layout.ports_file, layout.shape.processes)
        if not layout.certificates.exists():
            certificates.issue(layout.certificates, layout.realm, SERVICES, administrators=[ADMINISTRATOR])
        prepare_realm(layout, self._ports, system_clock)
        self._servers.wait()
        started = [(self._start_service(name), layout.ready_file(name)) for name in layout.shape.processes]
        for process, ready_file in started:
            process.wait_until(ready_file.exists, READY_SECONDS)

    def _lock_folder(self) -> None:
        try:
            self._lock.acquire()
        except LockHeldError as error:
            folder = self.layout.folder
            raise StackFailedError(
                f"another stack runs in {folder}: end it, or choose another folder with --data"
            ) from error

    def _start_service(self, name: str) -> Process:
        self.layout.ready_file(name).unlink(missing_ok=True)
        servers = self._servers
        environment = settings_of(
            self.layout, name, self._ports, servers.redis_url, database=servers.database, mailboxes=servers.mailboxes
        )
        command = [sys.executable, "-m", f"keypost_services.{service_of(name)}", "serve"]
        process = Process(name, command, self.layout.log(name), environment)
        process.start()
        self._take(process)
        return process

    def _take(self, process: Process) -> None:
        self._processes.append(process)
        self._guard.add(process.pid)
        process.watch(self._note_death)

    def _note_death(self, process: Process) -> None:
        if process in self._processes and not self._died.is_set():
            self._obituary = process.obituary()
            self._died.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until a part dies, or for so long.

        Raises:
            StackFailedError: a part died.
        """
        if self._died.wait(seconds):
            raise StackFailedError(str(self._obituary))

    def call_on_death(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the obituary, from another thread, if a part dies."""

        def wait() -> None:
            self._died.wait()
            if self._obituary is not None:
                callback(self._obituary)

        threading.Thread(target=wait, name="stack watch", daemon=True).start()

    def remove(self) -> None:
        """Remove everything, wherever it lies; after ``stop``."""
        self._servers.remove()
        shutil.rmtree(self.layout.folder)

    def stop(self) -> Sequence[str]:
        """Stop everything in the reverse order of its start; return the names of those that had to be killed."""
        killed = []
        for process in reversed(self._processes):
            process.ask_to_stop()
            if not process.wait_stopped(STOP_SECONDS):
                killed.append(process.name)
        self._processes.clear()
        self._guard.stop()
        self._servers.tidy_up()
        self._lock.release()
        self._died.set()
        return killed
