"""The services as they are run, each a process of its own, and an echo beside them that does nothing else."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Self

import redis

from keypost.clock import system_clock
from keypost_services.delivery.mailboxes import Durability
from keypost_services.embedded import certificates
from keypost_services.embedded.layout import SERVICES, Layout, settings_of
from keypost_services.embedded.ports import choose_ports
from keypost_services.embedded.processes import Process, StackFailedError
from keypost_services.embedded.realm import prepare_realm
from keypost_services.embedded.stack import READY_SECONDS
from keypost_services.embedded.valkey import Valkey
from keypost_services.runtime.limits.table import QUOTAS
from support.valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from keypost_services.embedded.layout import Ports

ATTEMPTS = 3
STOP_SECONDS = 10.0
SMALL_DIRECTORY = "small_directory"
"""A directory whose process keeps fewer records than are asked for in turn: each look-up goes to Redis."""
APPEND = {
    Durability.MEMORY: ("no", "everysec"),
    Durability.PROCESS: ("yes", "everysec"),
    Durability.FSYNC: ("yes", "always"),
}
_COUNTED = ",".join(f"{name}=1000000/1s" for name, quotas in QUOTAS.items() if quotas)
"""Every limit that there is stays, and is counted where it is counted in a deployment; it is never reached."""


class BenchStack:
    """A CA, two directories, a delivery, a Valkey for all of them, and an echo. To be entered once.

    Args:
        folder: Where everything lies.
        durability: What delivery promises at first.
    """

    def __init__(self, folder: Path, durability: Durability = Durability.FSYNC) -> None:
        self.layout = Layout(folder)
        self.ports: dict[str, Ports] = {}
        self._durability = durability
        self._valkey = Valkey(folder / "valkey")
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        for last in range(ATTEMPTS - 1, -1, -1):
            try:
                self._start()
            except BaseException as error:
                self._stop()
                # Between finding a free port and listening there somebody else may take it.
                if last and isinstance(error, StackFailedError) and "cannot listen" in str(error):
                    continue
                raise
            break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def redis_url(self) -> str:
        """The Valkey's URL."""
        return self._valkey.url

    @property
    def public_root_pem(self) -> bytes:
        """The root of the public certificates."""
        return (self.layout.certificates / "public-root.pem").read_bytes()

    def public_port(self, name: str) -> int:
        """Return the port at which a process serves devices."""
        return self.ports[name]["public"]

    def pids(self, *names: str) -> dict[str, int]:
        """Return the ids of these processes."""
        return {name: self._processes[name].pid for name in names}

    def forget(self) -> None:
        """Have the Valkey forget what is in it: what a row that failed has left behind."""
        with contextlib.closing(redis.Redis.from_url(self.redis_url)) as client:
            client.flushall()

    def promise(self, durability: Durability) -> None:
        """Have the Valkey and delivery promise so much from now on; delivery begins anew."""
        self._end("delivery")
        self._durability = durability
        self._configure_valkey()
        self._start_service("delivery")()

    def _start(self) -> None:
        layout = self.layout
        layout.log_folder.mkdir(parents=True, exist_ok=True)
        self._processes["valkey"] = self._valkey.start()
        self.ports = choose_ports(layout.ports_file)
        for name in (SMALL_DIRECTORY, "echo"):
            self.ports[name] = {"public": free_port(), "internal": free_port()}
        if not layout.certificates.exists():
            certificates.issue(layout.certificates, layout.realm, SERVICES)
        prepare_realm(layout, {name: self.ports[name] for name in SERVICES}, system_clock)
        self._valkey.wait()
        self._configure_valkey()
        # Whoever needs another one would wait longer for one that begins at the same time.
        for names in (("ca",), ("directory", SMALL_DIRECTORY), ("delivery",)):
            for wait in [self._start_service(name) for name in names]:
                wait()
        self._start_echo()()

    def _configure_valkey(self) -> None:
        only, fsync = APPEND[self._durability]
        with contextlib.closing(redis.Redis.from_url(self.redis_url)) as client:
            client.config_set("appendfsync", fsync)
            client.config_set("appendonly", only)

    def _start_service(self, name: str) -> Callable[[], None]:
        """Start a service; what is returned waits until it serves."""
        service = "directory" if name == SMALL_DIRECTORY else name
        ports = {**self.ports, service: self.ports[name]}
        environment = settings_of(self.layout, service, ports, self.redis_url) | self._changes(name)
        ready = self.layout.folder / f"{name}.ready.json"
        environment[f"KEYPOST_{service.upper()}_READY_FILE"] = str(ready)
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"keypost_services.{service}", "serve"]
        return self._start_process(name, command, ready, environment)

    def _changes(self, name: str) -> dict[str, str]:
        own: dict[str, dict[str, Any]] = {
            # More than are under way are never waiting; a mailbox that is full is not what is measured.
            "delivery": {"DURABILITY": self._durability.value, "MAILBOX_MESSAGES": 1_000_000, "MAILBOX_BYTES": 2**32},
            SMALL_DIRECTORY: {"PROCESS_CACHE_MEGABYTES": 1},
        }
        service = "directory" if name == SMALL_DIRECTORY else name
        common = {
            "LIMITS": _COUNTED,
            "ANONYMOUS_CALLS_PER_SECOND": 1_000_000,
            "TOKEN_LOOKUPS_PER_SECOND": 1_000_000,
            "MAX_CALLS_PER_CALLER": 1_000,
        }
        return {f"KEYPOST_{service.upper()}_{key}": str(value) for key, value in (common | own.get(name, {})).items()}

    def _start_echo(self) -> Callable[[], None]:
        own, ready = self.layout.certificates / "delivery", self.layout.folder / "echo.ready"
        arguments = [str(self.public_port("echo")), str(own / "public.pem"), str(own / "public.key"), str(ready)]
        command = [sys.executable, "-m", "benchmarks.echo", *arguments]
        return self._start_process("echo", command, ready, {})

    def _start_process(
        self, name: str, command: Sequence[str], ready: Path, environment: Mapping[str, str]
    ) -> Callable[[], None]:
        self._processes[name] = process = Process(name, command, self.layout.log(name), environment)
        process.start()
        return lambda: process.wait_until(ready.exists, READY_SECONDS)

    def _end(self, *names: str) -> None:
        for name in names:
            self._processes[name].ask_to_stop()
        for name in names:
            self._processes.pop(name).wait_stopped(STOP_SECONDS)

    def _stop(self) -> None:
        self._end(*(name for name in self._processes if name != "valkey"))
        self._end(*self._processes)
        self._valkey.tidy_up()
