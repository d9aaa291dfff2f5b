"""The whole of Keypost on one machine: an embedded Valkey and the three services, each a process of its own.

Everything listens on the loopback address with TLS, everything lies in one folder, and nothing outlives ``stop``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from keypost_services.embedded import certificates
from keypost_services.embedded.layout import SERVICES, Layout, Ports, bundle_arguments, init_arguments, settings_of
from keypost_services.embedded.processes import Process, StartFailed, clean_environment
from keypost_services.embedded.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

READY_SECONDS = 30.0
STOP_SECONDS = 10.0
COMMAND_SECONDS = 60.0


@dataclass(frozen=True)
class Part:
    """One part that runs: its name, its process id, and what it serves where."""

    name: str
    pid: int
    serves: str


class Stack:
    """Starts, watches and stops the parts.

    Args:
        layout: The folder with everything, the realm, and the suites that it allows.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._died = threading.Event()
        self._obituary: str | None = None
        self._valkey = Valkey(layout.folder / "valkey")
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
            return f"127.0.0.1:{self._valkey.port}, with a password"
        ports = self._ports[name]
        return f"127.0.0.1:{ports['public']} TLS, 127.0.0.1:{ports['internal']} mutual TLS"

    def start(self) -> None:
        """Start everything; return when everything serves and the bundle is written.

        Raises:
            StartFailed: a part did not start; what had started is stopped again.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._prepare_folder()
        self._take(self._valkey.start())
        if not self.layout.realm_folder.exists():
            self.command("ca", *init_arguments(self.layout))
        remembered = self._remembered_ports()
        self._valkey.wait()
        for service in SERVICES:
            self._start_service(service, remembered.get(service, {}))
        self._remember_ports()
        self.command("ca", *bundle_arguments(self.layout, self._ports))

    def _prepare_folder(self) -> None:
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        self.layout.log_folder.mkdir(exist_ok=True)
        if not self.layout.certificates.exists():
            certificates.issue(self.layout.certificates, self.layout.realm, SERVICES)

    def _start_service(self, service: str, wanted: Ports) -> None:
        ready_file = self.layout.ready_file(service)
        ready_file.unlink(missing_ok=True)
        environment = settings_of(self.layout, service, wanted, self._ports, self._valkey.url)
        command = [sys.executable, "-m", f"keypost_services.{service}", "serve"]
        process = Process(service, command, self.layout.log(service), environment)
        process.start()
        self._take(process)
        process.wait_until(ready_file.exists, READY_SECONDS)
        ready = json.loads(ready_file.read_text())
        self._ports[service] = {"public": ready["public_port"], "internal": ready["internal_port"]}

    def _take(self, process: Process) -> None:
        self._processes.append(process)
        process.watch(self._note_death)

    def _note_death(self, process: Process) -> None:
        if not self._died.is_set():
            self._obituary = process.obituary()
            self._died.set()

    def command(self, service: str, *arguments: str) -> str:
        """Run a command of a service, such as ``init``; return what it prints.

        Raises:
            StartFailed: it failed; the message has what it said.
        """
        done = subprocess.run(  # noqa: S603  # our own commands
            [sys.executable, "-m", f"keypost_services.{service}", *arguments],
            env=clean_environment(settings_of(self.layout, service, {}, self._ports, self._valkey.url)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        if done.returncode != 0:
            raise StartFailed(f"keypost-{service} {arguments[0]} failed:\n  {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _remembered_ports(self) -> dict[str, Ports]:
        """Return the ports of the last time, so that the bundle stays right when a stack is started again."""
        path = self.layout.ports_file
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _remember_ports(self) -> None:
        self.layout.ports_file.write_text(json.dumps(self._ports))

    def wait(self, seconds: float | None = None) -> None:
        """Wait until a part dies, or for so long.

        Raises:
            StartFailed: a part died.
        """
        if self._died.wait(seconds):
            raise StartFailed(str(self._obituary))

    def call_on_death(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the obituary, from another thread, if a part dies."""

        def wait() -> None:
            self._died.wait()
            if self._obituary is not None:
                callback(self._obituary)

        threading.Thread(target=wait, name="stack watch", daemon=True).start()

    def stop(self) -> Sequence[str]:
        """Stop everything in the reverse order of its start; return the names of those that had to be killed."""
        killed = []
        for process in reversed(self._processes):
            process.ask_to_stop()
            if not process.wait_stopped(STOP_SECONDS):
                killed.append(process.name)
        self._processes.clear()
        self._died.set()
        return killed
