"""The stack of compose.yaml, run by podman-compose.

Podman before 4.6 knows no condition ``service_healthy``, and podman-compose leaves it out there; so the services are
started one by one in the order of the file's own ``depends_on``, and what the next one waits for is waited for here.
"""

from __future__ import annotations

import json
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keypost_services.embedded.ca_log import CaLog
from support.images.parts import IMAGE, STORES
from support.pages import ROOT, read
from support.valkey import free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

    from support.images.engine import Engine

FILE = ROOT / "compose.yaml"
SERVICES = ("ca", "directory", "delivery")
SECONDS = 120.0


def composition() -> Mapping[str, Any]:
    """Return compose.yaml, with anchors taken and variables left as they stand."""
    found: Mapping[str, Any] = yaml.safe_load(read(FILE))
    return found


class Composed:
    """The running stack.

    Args:
        engine: Runs it.
        project: Its name; containers, volumes and networks begin with it.
    """

    def __init__(self, engine: Engine, project: str) -> None:
        self.engine = engine
        self.project = project
        self.composition = composition()["services"]
        self.ports = {service: free_port() for service in SERVICES}

    @property
    def _variables(self) -> dict[str, str]:
        ports = {f"KEYPOST_{service.upper()}_PORT": str(port) for service, port in self.ports.items()}
        return {"KEYPOST_IMAGE": IMAGE, "POSTGRES_IMAGE": STORES, "VALKEY_IMAGE": STORES, **ports}

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run podman-compose."""
        program = str(Path(sys.executable).with_name("podman-compose"))
        options = ("--in-pod", "false", "--project-name", self.project, "--file", str(FILE))
        return self.engine.run(program, *options, *arguments, cwd=ROOT, variables=self._variables)

    @property
    def order(self) -> list[str]:
        """The services, those that others wait for first."""
        needs = {name: set(service.get("depends_on", {})) for name, service in self.composition.items()}
        return list(TopologicalSorter(needs).static_order())

    def up(self) -> None:
        """Start all of it; return when everything that has a health check is healthy."""
        for service in self.order:
            self.compose("up", "--detach", "--no-build", "--no-deps", service)
            self.wait_for(service)

    def wait_for(self, service: str) -> None:
        """Wait until a service is healthy or, if it has no health check, is done."""
        if "healthcheck" in self.composition[service]:
            self._wait_until_healthy(service)
            return
        code = self.engine.podman("wait", self.container(service)).stdout.strip()
        assert code == "0", self.log(service)

    def _wait_until_healthy(self, service: str) -> None:
        deadline = time.monotonic() + SECONDS
        while self.engine.podman("healthcheck", "run", self.container(service), check=False).returncode:
            assert time.monotonic() < deadline, f"{service} is not healthy:\n{self.log(service)}"
            assert self.state(service)["Running"], f"{service} ended:\n{self.log(service)}"
            time.sleep(0.1)  # podman says nothing by itself: it runs the check when it is asked to

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        return f"{self.project}_{service}_1"

    def inspected(self, service: str) -> dict[str, Any]:
        """Return what podman knows of a container."""
        (found,) = json.loads(self.engine.podman("inspect", self.container(service)).stdout)
        return dict(found)

    def state(self, service: str) -> dict[str, Any]:
        """Return the state of a container: ``Running``, ``ExitCode``, ``Pid``."""
        return dict(self.inspected(service)["State"])

    def log(self, service: str) -> str:
        """Return what a service has written, standard error too."""
        done = self.engine.podman("logs", self.container(service), check=False)
        return done.stdout + done.stderr

    def run_in(self, service: str, *command: str) -> str:
        """Run a command in a container and return what it prints."""
        return self.engine.podman("exec", self.container(service), *command).stdout

    def grace(self, service: str) -> float:
        """Return how many seconds a service is left to end."""
        return float(str(self.composition[service].get("stop_grace_period", "10s")).removesuffix("s"))

    def stop(self, service: str) -> float:
        """Stop a service as compose does, with its own grace; return the seconds that it took."""
        begun = time.monotonic()
        self.engine.podman("stop", "--time", f"{self.grace(service):.0f}", self.container(service))
        return time.monotonic() - begun

    def start(self, service: str) -> None:
        """Start a service again."""
        self.engine.podman("start", self.container(service))
        self.wait_for(service)

    def code_for(self, username: str) -> str:
        """Return a one-time code, as an operator makes it."""
        made = json.loads(self.run_in("ca", "keypost-ca", "code", username, "--json"))
        return str(made["code"])

    def bundle(self, file: Path) -> Path:
        """Write the bundle to a file, as an operator gets it."""
        file.write_text(self.run_in("directory", "cat", "/etc/keypost/bundle/bundle.json"))
        return file

    def ca_steps(self) -> CaSteps:
        """Return the account that the CA gives of renewals."""
        return CaSteps(self)


class CaSteps:
    """The CA's steps of a renewal, as it logs them in its container.

    Args:
        stack: The stack.
    """

    def __init__(self, stack: Composed) -> None:
        self._stack = stack
        self._file = stack.engine.folder / "ca.log"
        self._log = CaLog(self._file, lambda: int(stack.state("ca")["Pid"]))

    def new_steps(self) -> Iterator[dict[str, Any]]:
        """Yield the steps that were logged since the last call."""
        # Standard output alone: it grows at its end.
        self._file.write_text(self._stack.engine.podman("logs", self._stack.container("ca")).stdout)
        yield from self._log.new_steps()
