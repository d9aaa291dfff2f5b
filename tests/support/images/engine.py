"""Podman and buildah with all that is theirs in one folder, and nothing of it left afterwards.

Where containers cannot be limited by systemd and crun (a container itself, a small virtual machine) they still run with
runc, cgroupfs and the limits of this process: that is asked for here, so that the tests run in such places too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from keypost_services.embedded.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOOLS = ("podman", "buildah", "debootstrap", "runc", "iptables")
HELPERS = ("netavark", "aardvark-dns")
"""Programs that podman starts for networks and names in them; they lie beside it, not on the PATH."""
BESIDE = (Path("/usr/lib/podman"), Path("/usr/libexec/podman"))
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_CHAIN = re.compile(r"NETAVARK\S*")
_CONF = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
lock_type = "file"
tmp_dir = "{folder}/tmp"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""


def missing() -> list[str]:
    """Return what these tests need and this machine has not."""
    found = [name for name in TOOLS if shutil.which(name) is None]
    found += [name for name in HELPERS if not any((place / name).exists() for place in BESIDE)]
    return found + ["root"] * (os.geteuid() != 0)


class Engine:
    """Runs the tools.

    Args:
        folder: Where images, containers and volumes are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(parents=True)
        (folder / "containers.conf").write_text(_CONF.format(folder=folder, files=20_000, processes=32_768))
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        self._forwarded = _FORWARD.read_text()
        self._chains = _chains()

    @property
    def environment(self) -> dict[str, str]:
        """What the tools find their folder by."""
        return clean_environment(
            {
                "CONTAINERS_CONF": str(self.folder / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            }
        )

    def run(
        self,
        *command: str,
        check: bool = True,
        seconds: float = 300,
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a tool and wait for it; with ``check`` a failure shows what the tool said."""
        done = subprocess.run(
            command,
            env=self.environment | dict(variables or {}),
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def podman(self, *arguments: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run podman."""
        return self.run("podman", *arguments, check=check, seconds=seconds)

    def build(self, context: Path, tag: str, options: Sequence[str], *, file: str) -> None:
        """Build an image; inside, ``RUN`` has neither capabilities of its own nor another network."""
        isolated = ("--isolation", "chroot", "--network", "host")
        words = ("--quiet", *isolated, *options, "--tag", tag, "--file", file, ".")
        self.run("buildah", "bud", *words, cwd=context, seconds=900)

    def remove(self) -> None:
        """End and remove everything, and what networks left in the kernel."""
        self.podman("rm", "--all", "--force", "--volumes", "--time", "1", check=False)
        self.podman("network", "prune", "--force", check=False)
        self.podman("rmi", "--all", "--force", check=False)
        for table, chain in _chains() - self._chains:
            _drop(table, chain)
        _FORWARD.write_text(self._forwarded)
        shutil.rmtree(self.folder, ignore_errors=True)


def _rules(table: str) -> list[str]:
    done = subprocess.run(["iptables", "-t", table, "-S"], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.splitlines()


def _chains() -> set[tuple[str, str]]:
    """Return the chains that are named like those of podman's networks, with their tables."""
    found = ((table, rule) for table in ("filter", "nat") for rule in _rules(table) if rule.startswith("-N "))
    return {(table, rule.split()[1]) for table, rule in found if _CHAIN.fullmatch(rule.split()[1])}


def _drop(table: str, chain: str) -> None:
    """Remove a chain and every rule that leads to it."""
    for rule in _rules(table):
        if rule.startswith("-A ") and re.search(rf"-j {re.escape(chain)}(?:\s|$)", rule):
            # As iptables prints a rule, it takes it: only the first word says what to do. Comments are quoted.
            words = re.findall(r'"[^"]*"|\S+', rule)[1:]
            command = ["iptables", "-t", table, "-D", *(word.strip('"') for word in words)]
            subprocess.run(command, check=False, capture_output=True, timeout=60)
    for action in ("-F", "-X"):
        subprocess.run(["iptables", "-t", table, action, chain], check=False, capture_output=True, timeout=60)
